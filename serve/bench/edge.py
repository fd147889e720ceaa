"""Edge hits measured, turn about with a bare application that has the same cache in Python.

All are asked by `wrk` with the same requests in the same run, so that whatever else the machine
does hits all alike. `ingress_per_s` is the same through HAProxy with a header that keeps a request
from the edge, but not from the near cache. A rival, if one is named, is any other server that takes
the same requests.
"""

import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median

from serve.bench import edge_changes
from serve.bench.figures import rounded
from serve.bench.hit import hot_bodies, until_verdict
from serve.bench.target import Target
from serve.bench.wrk import Load, Wrk
from serve.errors import ConfigError
from serve.ollama.startup import free_port

_PATH = "/api/generate"
_PROMPTS = 16
_CHANGES = 100
_ENTRIES = 10_000
_SETTLE_S = 15.0
NOT_THE_EDGE = {"X-Rayllama-Bench": "ingress"}
"""A request with a header of such a name is the ingress's (`serve.edge.rules.ODD`)."""

Say = Callable[[str], None]


def edge(
    target: Target, *, rounds: int, seconds: int, connections: int, say: Say, rival: str = ""
) -> dict[str, float | str | None]:
    """The figures by name. `rival`: the whole URL of another server to measure in turn.

    `connections` are open in each comparison; the percentiles of one connection are told beside.

    Raises `ConfigError` where there is no edge, or nothing to measure.
    """
    bodies = hot_bodies(target.model, _PROMPTS)
    say(f"computing {_PROMPTS} answers, and asking until the edge gives them")
    size = _heat(target, bodies)
    at_edge = Wrk(bodies, target.headers)
    at_ingress = Wrk(bodies, target.headers | NOT_THE_EDGE)
    with _bare(size) as bare:
        asked = {
            "edge": (at_edge, target.url + _PATH),
            "bare": (at_edge, bare),
            "ingress": (at_ingress, target.url + _PATH),
        }
        if rival:
            asked["rival"] = (Wrk(bodies, {}), rival)  # it gets no key of ours
        loads: dict[str, list[Load]] = {name: [] for name in asked}
        say(
            f"{', '.join(asked)} in turn, {rounds} times {seconds} s over {connections} connections"
        )
        for _ in range(rounds):
            _heat(target, bodies)
            for name, (wrk, url) in asked.items():
                loads[name].append(wrk.run(url, connections=connections, seconds=seconds))
            told = (f"{name} {found[-1].per_s:8.0f}/s" for name, found in loads.items())
            say("  " + "   ".join(told))
    _heat(target, bodies)
    one = at_edge.run(target.url + _PATH, connections=1, seconds=seconds)
    changed = edge_changes.stale(target, changes=_CHANGES, say=say)
    feed_s = edge_changes.feed(target.url, _ENTRIES, say)
    figures: dict[str, float | str | None] = {
        **changed,
        **{f"{name}_per_s": median(load.per_s for load in found) for name, found in loads.items()},
        "ratio": median(
            a.per_s / b.per_s for a, b in zip(loads["edge"], loads["bare"], strict=True)
        ),
        "edge_p50_ms": one.p50_us / 1e3,
        "edge_p99_ms": one.p99_us / 1e3,
        f"p99_ms_{connections}": median(load.p99_us for load in loads["edge"]) / 1e3,
        "answer_bytes": size,
        "lease_s": edge_changes.lease_s(),
        f"feed_s_{_ENTRIES}": feed_s,
    }
    return rounded(figures)


def _heat(target: Target, bodies: list[bytes]) -> int:
    """Ask until each is answered at the edge. The mean size of an answer, in bytes."""
    deadline = time.monotonic() + _SETTLE_S
    with target.connect() as rayllama:
        sizes = [len(until_verdict(rayllama, body, "hit").body) for body in bodies]
        while not all(
            rayllama.ask(_PATH, body).verdict.startswith("hit; tier=edge") for body in bodies
        ):
            if time.monotonic() > deadline:
                raise ConfigError(
                    f"{target.url} has no edge: HAProxy was not started by rayllama-haproxy, or "
                    "`edge.enabled` is false; the README says more"
                )
    return sum(sizes) // len(sizes)


@contextmanager
def _bare(size: int) -> Iterator[str]:
    """The bare application in a process of its own; its URL."""
    port = free_port()
    command = [sys.executable, "-c", "from serve.bench.bare import main; main()"]
    with subprocess.Popen([*command, str(port), str(size)]) as process:  # noqa: S603 - ourselves
        try:
            _wait_for(port)
            yield f"http://127.0.0.1:{port}{_PATH}"
        finally:
            process.terminate()


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + _SETTLE_S
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise ConfigError("the bare application did not start")
