"""Load that rises and falls on a cluster of several raylets with declared GPUs, and a node's death.

The GPUs are declared, not there: the engine is the embedded one, on the CPU. What is measured is
how replicas come, go and are lost, and what that does to streams.
"""

import asyncio
import json
import secrets
import time
from collections.abc import Callable
from contextlib import suppress

from serve.bench.cluster import Cluster
from serve.bench.figures import rounded
from serve.bench.streams import Stream
from serve.settings import Settings

_NODES = 3
_SLOTS = 2
_WITHIN_S = 120.0

Say = Callable[[str], None]
Figures = dict[str, float | str | None]


def settings() -> Settings:
    """A pool of the embedded engine on GPUs that are only declared."""
    return Settings.model_validate(
        {
            "inference": {
                "engine": "embedded",
                "num_gpus": 1,
                "num_cpus": 0,
                "slots": _SLOTS,
                "context_length": 2048,
                "models": ["smollm2:135m"],
                "min_replicas": 0,
                "max_replicas": _NODES,
                "target_load": 1,
                "upscale_delay_s": 1,
                "downscale_delay_s": 4,
                "drain_timeout_s": 120,
            },
            "embedded": {"threads": 1},
            "cache": {"policy": "off"},
            "ingress": {"replicas": 1, "num_cpus": 1},  # on the head, which doesn't die
            "admin": {"port": 0},
        }
    )


def elastic(*, say: Say) -> Figures:
    """The figures by name. Raises `TimeoutError` if replicas don't come or go."""
    say(f"a cluster of a head and {_NODES} nodes with a GPU each, declared")
    with Cluster(settings(), _NODES) as cluster:
        return asyncio.run(_measure(cluster, say))


async def _measure(cluster: Cluster, say: Say) -> Figures:
    await until_up(cluster)
    say("from zero: one request")
    first = Asked(cluster.url, tokens=8)
    await first.end()
    figures: Figures = {"zero_to_first_token_s": first.waited_s}

    say(f"load rises: {_NODES * _SLOTS} streams at a time")
    load = Load(cluster.url, _NODES * _SLOTS, tokens=200)
    up = asyncio.to_thread(cluster.until_replicas, _NODES, _NODES, _WITHIN_S)
    figures["up_s"] = await up

    say("a node dies under load")
    figures |= await _kill_one(cluster, load)

    say("load falls: what runs ends by itself")
    await load.wane()
    figures["down_s"] = await asyncio.to_thread(cluster.until_replicas, 0, 0, _WITHIN_S)
    figures["streams"] = len(load.asked)
    others = [each for each in load.asked if each not in load.struck]
    cut = [each for each in others if not each.is_whole]
    figures["streams_cut"] = len(cut)
    for each in cut:
        say(f"  cut: {each.last_words}")
    return rounded(figures)


async def _kill_one(cluster: Cluster, load: "Load") -> Figures:
    """Its streams fail and nobody else's; how long until there is a full answer of all again."""
    await load.until(lambda: len({each.replica for each in load.running}) >= _NODES - 1)
    replicas = await asyncio.to_thread(cluster.replicas)
    counts = [each.replica for each in load.running if each.replica in replicas]
    busiest = max(set(counts), key=counts.count)
    node = replicas[busiest]
    there = {name for name, where in replicas.items() if where == node}
    began = time.monotonic()
    await asyncio.to_thread(cluster.kill, node)
    load.strike(there)
    await load.until(lambda: all(each.is_over for each in load.struck))
    failed = [each for each in load.asked if each.is_over and not each.is_whole]
    await load.until(lambda: any(each.is_whole and each.began > began for each in load.asked))
    await asyncio.to_thread(cluster.until_replicas, _NODES - 1, _NODES - 1, _WITHIN_S)
    return {
        "node_death_failed": len(failed),
        "node_death_in_flight": len(load.struck),
        "node_death_others_failed": sum(each not in load.struck for each in failed),
        "recovery_s": time.monotonic() - began,
    }


async def until_up(cluster: Cluster) -> None:
    """The ingress answers, without waking the pool."""
    deadline = time.monotonic() + _WITHIN_S
    while time.monotonic() < deadline:
        try:
            reader, writer = await asyncio.open_connection(*cluster.url[7:].split(":"))
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            status = await reader.readline()
            writer.transport.abort()
            with suppress(OSError):
                await writer.wait_closed()
            if b" 200 " in status:
                return
        except OSError:
            pass
        await asyncio.sleep(0.1)
    raise TimeoutError("the ingress did not come up")


class Asked:
    """One streamed question."""

    def __init__(self, url: str, tokens: int) -> None:
        options = {"num_predict": tokens, "temperature": 1}
        prompt = f"{secrets.token_hex(4)}: a long story about a river."
        body = {"model": "smollm2:135m", "prompt": prompt, "options": options}
        self.began = time.monotonic()
        self._stream = Stream(url, {}, json.dumps(body).encode())
        self._task = asyncio.get_running_loop().create_task(self._run())
        self.waited_s = 0.0
        self.is_whole = False

    @property
    def is_over(self) -> bool:
        """Has it ended, one way or another?"""
        return self._task.done()

    @property
    def replica(self) -> str:
        """Who answers; "" before the first bytes."""
        return self._stream.header("x-rayllama-replica")

    @property
    def last_words(self) -> str:
        """How far it came: status, seconds, bytes, and the last of them."""
        came, took_s = self._stream.body, time.monotonic() - self.began
        return (
            f"{self._stream.status} {self.replica} {took_s:.1f} s ago {len(came)} {came[-300:]!r}"
        )

    async def end(self) -> None:
        """Returns when it is over."""
        await asyncio.wait([self._task])

    async def _run(self) -> None:
        try:
            await self._stream.connect()
            first = asyncio.get_running_loop().create_task(self._time_first())
            try:
                await self._stream.run()
            finally:
                first.cancel()
        except OSError:
            return
        finally:
            await self._stream.close()
        self.is_whole = b'"done":true' in self._stream.body and self._stream.status == 200

    async def _time_first(self) -> None:
        await self._stream.begun()
        self.waited_s = time.monotonic() - self.began


class Load:
    """So many streams at a time: whenever one is over, another is asked for."""

    def __init__(self, url: str, width: int, tokens: int) -> None:
        self._url, self._tokens = url, tokens
        self.asked: list[Asked] = []
        self._dead: set[str] = set()
        self._is_waning = False
        loop = asyncio.get_running_loop()
        self._lanes = [loop.create_task(self._keep()) for _ in range(width)]

    @property
    def running(self) -> list[Asked]:
        """Those that are not over."""
        return [each for each in self.asked if not each.is_over]

    def strike(self, replicas: set[str]) -> None:
        """Those replicas are dead: their streams can't end well."""
        self._dead = replicas

    @property
    def struck(self) -> list[Asked]:
        """What the dead had begun to answer, and not ended."""
        theirs = [each for each in self.asked if each.replica in self._dead]
        return [each for each in theirs if not each.is_over or not each.is_whole]

    async def until(self, condition: Callable[[], bool]) -> None:
        """Poll it. Raises `TimeoutError`."""
        async with asyncio.timeout(_WITHIN_S):
            while not condition():  # noqa: ASYNC110  (of processes elsewhere)
                await asyncio.sleep(0.02)

    async def wane(self) -> None:
        """Ask no more, and wait for what runs."""
        self._is_waning = True
        await asyncio.wait(self._lanes, timeout=_WITHIN_S)

    async def _keep(self) -> None:
        while not self._is_waning:
            asked = Asked(self._url, self._tokens)
            self.asked.append(asked)
            await asked.end()
