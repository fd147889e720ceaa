"""The feeder of one node's HAProxy (`serve.edge`).

Owns:         which answers this node's proxy holds, and the lease under which it may give them.
Does not own: the proxy, which is Serve's, or the answers, which are the cache's.
Lives:        one actor on each node that has a proxy, and for each version of the application,
              started by whichever ingress replica is the first to ask.
Dies:         with the ingress replica that started it; the proxy falls silent within a lease, the
              next replica that misses it starts another, and requests are answered all the while.
"""

import asyncio
import logging
import secrets
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from time import monotonic, time
from typing import Any

import msgspec
import ray
from ray.serve._private.constants import RAY_SERVE_HAPROXY_CONFIG_FILE_LOC
from ray.util import metrics

from deployments.handles import listen_host, named_address
from serve.edge.feeder import Feeder, again
from serve.edge.launcher import FOLDER, STATE, State
from serve.edge.listener import Listener
from serve.edge.protocol import Address
from serve.edge.seen import place_of, stats_of
from serve.edge.turn import Turn
from serve.settings import Settings

_TELL_EVERY_S = 1.0
_READY_WITHIN_S = 30.0
_NOT_ITS_TURN = "another feeder has this node's proxy"


class Edge:
    """The actor. `shards`: the names of the cache's actors, in order."""

    def __init__(self, settings: Settings, shards: Sequence[str], version: str) -> None:
        self._settings = settings
        self._resolvers = [partial(named_address, name) for name in shards]
        logging.basicConfig(level=logging.INFO)
        self._folder = node_folder()
        self._turn = Turn(self._folder, version)
        self._listener: Listener | None = None
        self._feeder: Feeder | None = None
        self._ready = asyncio.Event()
        self._gauges = EdgeGauges()
        self._feeding = asyncio.get_running_loop().create_task(again(self._feed))

    async def address(self, since: float) -> Address | None:
        """Where ingresses tell what is hot; None: this node's proxy has no edge.

        `since`: when who asks began, in seconds since the epoch. Raises `TimeoutError` while it is
        not its turn; when it is, no other feeds this node's proxy.
        """
        self._turn.asked(since)
        if not self._folder.is_dir():
            return None
        async with asyncio.timeout(_READY_WITHIN_S):
            await self._ready.wait()
        if self._listener is None:  # the turn has ended since; None would say: no edge
            raise TimeoutError(_NOT_ITS_TURN)
        return self._listener.address

    async def _feed(self) -> None:
        """Wait for the turn, and feed until it is over."""
        async with self._turn as turn:
            await self._feed_while(turn)

    async def _feed_while(self, turn: Turn) -> None:
        edge, cache = self._settings.edge, self._settings.cache
        feeder = Feeder(edge, cache, self._resolvers, self._look, clock=monotonic, now=time)
        try:
            async with feeder, Listener(feeder, secrets.token_bytes(32), listen_host()) as listener:
                self._feeder, self._listener = feeder, listener
                self._ready.set()
                telling = asyncio.get_running_loop().create_task(self._tell(feeder))
                await turn.over()
                telling.cancel()
                await asyncio.wait([telling])
        finally:
            self._ready.clear()
            self._listener = self._feeder = None

    async def stats(self) -> dict[str, Any]:
        """What the node's edge holds and has done (`serve.edge.seen`)."""
        return stats_of(self._feeder) if self._feeder else {"reason": _NOT_ITS_TURN}

    async def place(self, shared_key: bytes) -> dict[str, Any]:
        """Is that answer at the node's edge?"""
        if self._feeder is None:
            return {"is_there": False, "why": _NOT_ITS_TURN}
        return place_of(self._feeder, shared_key)

    def _look(self) -> State | None:
        try:
            return msgspec.json.decode((self._folder / STATE).read_bytes(), type=State)
        except (OSError, msgspec.MsgspecError):
            return None

    async def _tell(self, feeder: Feeder) -> None:
        while True:
            self._gauges.tell(feeder)
            await asyncio.sleep(_TELL_EVERY_S)


class EdgeGauges:
    """The feeder's counts as Ray metrics."""

    def __init__(self) -> None:
        node = {"node": ray.get_runtime_context().get_node_id()[:8]}
        self._gauges = {
            name: _of_node(metrics.Gauge, f"rayllama_edge_{name}", text, node)
            for name, text in (
                ("entries", "Answers that the node's HAProxy holds."),
                ("bytes", "What they take up there."),
                ("lease_left_s", "For how long it may give them if nothing more is heard."),
            )
        }
        self._counters = {
            name: _of_node(metrics.Counter, f"rayllama_edge_{name}", text, node)
            for name, text in (
                ("hits", "Requests that HAProxy answered by itself."),
                ("promoted", "Answers that went to the edge."),
                ("removed", "Answers that left it."),
                ("refused", "Answers that were told of and did not go there."),
            )
        }
        self._told = dict.fromkeys(self._counters, 0)

    def tell(self, feeder: Feeder) -> None:
        """What has come since the last time."""
        told = stats_of(feeder)
        for name, gauge in self._gauges.items():
            gauge.set(told["held_bytes" if name == "bytes" else name])
        for name, counter in self._counters.items():
            now = told[name]
            if now > self._told[name]:
                counter.inc(now - self._told[name])
            self._told[name] = now


def _of_node(kind: Any, name: str, text: str, node: dict[str, str]) -> Any:
    made = kind(name, description=text, tag_keys=("node",))
    made.set_default_tags(node)
    return made


def node_folder() -> Path:
    """Where this node's `rayllama-haproxy` writes: Serve keeps a folder for each node."""
    folder = Path(RAY_SERVE_HAPROXY_CONFIG_FILE_LOC).parent
    return Path(folder, ray.get_runtime_context().get_node_id(), FOLDER)
