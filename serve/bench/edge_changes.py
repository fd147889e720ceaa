"""What the edge is besides fast: how long it gives an old answer, and how soon it is full.

Staleness: a model is made anew again and again under load. An answer is an old one if its engine
made it (`created_at`) before the change began; it is stale by how long before it was asked for the
change had been acknowledged.
"""

import asyncio
import json
import secrets
import threading
import time
from collections.abc import Callable
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from serve.bench.target import Target, listeners
from serve.bench.wire import Connection
from serve.edge.admin_socket import add, admin, remove
from serve.edge.launcher import FOLDER, STATE, State
from serve.errors import ConfigError

_LOADERS = 4
_UNTIL_EDGE_S = 10.0
_VALUE_BYTES = 2000
_ADMIN = "http://127.0.0.1:8001"

Say = Callable[[str], None]


class _Changes:
    """When the latest change began and was acknowledged, and what the load has seen of it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.is_over = False
        self.number = 0
        self.seen_at_edge = 0
        """The latest change after which an answer came from the edge."""
        self.began = self.acknowledged = 0.0
        self.stale_s = 0.0
        self.answers = self.edge_answers = 0
        self.faults: list[str] = []


def stale(target: Target, *, changes: int, say: Say) -> dict[str, float | str | None]:
    """`stale_max_s`, and on how many answers and changes it stands. Raises `ConfigError`."""
    name = f"rayllama-bench-{secrets.token_hex(4)}"
    state = _Changes()
    say(f"{changes} changes of a model under load")
    with target.connect() as rayllama:
        try:
            _change(rayllama, name, target.model, state)
            loaders = [
                threading.Thread(target=_load, args=(target, name, state)) for _ in range(_LOADERS)
            ]
            for loader in loaders:
                loader.start()
            hot = 0
            try:
                for _ in range(changes):
                    hot += _until_edge(state)
                    _change(rayllama, name, target.model, state)
            finally:
                state.is_over = True
                for loader in loaders:
                    loader.join()
        finally:
            rayllama.ask("/api/delete", json.dumps({"model": name}).encode(), method="DELETE")
    if state.faults:
        raise ConfigError(f"{len(state.faults)} requests failed, the first: {state.faults[0]}")
    return {
        "stale_max_s": state.stale_s,
        "changes": changes,
        "changes_of_hot_answers": hot,
        "answers_under_changes": state.answers,
        "edge_answers_under_changes": state.edge_answers,
    }


def _change(rayllama: Connection, name: str, model: str, state: _Changes) -> None:
    system = f"You are variant {state.number + 1}."
    wanted = {"model": name, "from": model, "system": system, "stream": False}
    began = time.time()
    answer = rayllama.ask("/api/create", json.dumps(wanted).encode())
    if answer.status != 200:
        raise ConfigError(f"/api/create answers {answer.status}: {answer.body.decode()}")
    with state.lock:
        state.began, state.acknowledged = began, time.time()
        state.number += 1


def _until_edge(state: _Changes) -> bool:
    """Wait until the edge gives what the latest change has made; False if it doesn't in time."""
    deadline = time.monotonic() + _UNTIL_EDGE_S
    while state.seen_at_edge < state.number:
        if time.monotonic() > deadline or state.faults:
            return False
        time.sleep(0.005)
    return True


def _load(target: Target, name: str, state: _Changes) -> None:
    options = {"temperature": 0, "seed": 1, "num_predict": 2}
    asked = {"model": name, "prompt": "Who are you?", "stream": False, "options": options}
    body = json.dumps(asked).encode()
    with target.connect() as rayllama:
        while not state.is_over:
            with state.lock:
                number, began, acknowledged = state.number, state.began, state.acknowledged
            at = time.time()
            try:
                answer = rayllama.ask("/api/generate", body)
            except OSError as fault:
                state.faults.append(str(fault))
                return
            if answer.status != 200:
                state.faults.append(f"{answer.status} {answer.body[:200].decode()}")
                continue
            made = datetime.fromisoformat(json.loads(answer.body)["created_at"]).timestamp()
            is_edge = answer.verdict == "hit; tier=edge"
            with state.lock:
                state.answers += 1
                state.edge_answers += is_edge
                if made < began:
                    state.stale_s = max(state.stale_s, at - acknowledged)
                elif is_edge:
                    state.seen_at_edge = max(state.seen_at_edge, number)


def lease_s() -> float | None:
    """The lease of this node's edge, as its admin API tells; None where that doesn't answer."""
    try:
        with Connection(_ADMIN) as connection:
            told: dict[str, Any] = json.loads(
                connection.ask("/admin/cache/stats", method="GET").body
            )
    except (OSError, ValueError):
        return None
    return next(
        (float(node["lease_s"]) for node in told.get("edge", ()) if "lease_s" in node), None
    )


def feed(url: str, entries: int, say: Say) -> float:
    """How long so many entries take into the proxy at `url`, as its feeder puts them there, in s.

    They are taken out again. Raises `ConfigError` where it isn't on this machine.
    """
    say(f"{entries} entries of {_VALUE_BYTES} bytes")
    return asyncio.run(_feed(_state(urlsplit(url).port or 80), entries))


async def _feed(state: State, entries: int) -> float:
    keys = [sha256(b"%d" % number).hexdigest().upper() for number in range(entries)]
    async with admin(state.socket) as connection:
        began = time.perf_counter()
        refused = await connection.do(
            [add(state.answers, key, b"v" * _VALUE_BYTES) for key in keys]
        )
        took = time.perf_counter() - began
        await connection.do([remove(state.answers, key) for key in keys])
    if refused:
        raise ConfigError(f"HAProxy refuses: {refused[0][:100]}")
    return took


def _state(port: int) -> State:
    for process in listeners(port):
        words = process.cmdline()
        config = Path(words[words.index("-f") + 1]) if "-f" in words[:-1] else Path()
        if config.parent.name == FOLDER:
            return msgspec.json.decode((config.parent / STATE).read_bytes(), type=State)
    raise ConfigError(f"no HAProxy with an edge listens on port {port} of this machine")
