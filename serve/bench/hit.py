"""Hits measured: from the near cache, from another replica, and against a no-op application.

The no-op is a raw ASGI application in the same Serve, behind the same HAProxy, with as many
replicas as the ingress; it answers bodies of the same size. Both are asked by `wrk` with the same
requests, turn about in the same run, so that whatever else the machine does hits both.
"""

import json
import secrets
import time
from collections.abc import Callable, Sequence
from statistics import median

from serve.bench.beside import noop
from serve.bench.figures import p50_ms, rounded
from serve.bench.target import Target
from serve.bench.wire import Answer, Connection
from serve.bench.wrk import Load, Wrk
from serve.errors import ConfigError

_PROMPTS = 16
_SHARED = 60
_CONNECTIONS = 32
_SETTLE_S = 5.0

Say = Callable[[str], None]


def hit(target: Target, *, rounds: int, seconds: int, say: Say) -> dict[str, float | str | None]:
    """The figures by name. Raises `ConfigError` where the target can't be measured."""
    if not target.ingress_urls or target.cluster is None:
        raise ConfigError(
            f"the ingress replicas of {target.url} are not on this machine, or Serve runs without "
            "HAProxy; run this on Rayllama's node, on a config in high-throughput mode"
        )
    bodies = hot_bodies(target.model, _PROMPTS)
    wrk = Wrk(bodies, target.headers)
    say(f"computing {_PROMPTS} answers, and asking each of {len(target.ingress_urls)} replicas")
    size = _warm(target, bodies)
    say(f"hits and a no-op in turn, {rounds} times {seconds} s, {size} bytes an answer")
    hits: list[Load] = []
    noops: list[Load] = []
    replicas = len(target.ingress_urls)
    with noop(target.cluster, target.url, replicas=replicas, size=size) as nothing:
        for _ in range(rounds):
            for url, loads in ((target.url + "/api/generate", hits), (nothing, noops)):
                loads.append(wrk.run(url, connections=_CONNECTIONS, seconds=seconds))
            say(f"  hits {hits[-1].per_s:8.0f}/s   no-op {noops[-1].per_s:8.0f}/s")
    _still_near(target, bodies)
    one = wrk.run(target.url + "/api/generate", connections=1, seconds=seconds)
    shared = _shared(target, say)
    return rounded(_figures(hits, noops, one, shared) | {"answer_bytes": size})


def _figures(
    hits: Sequence[Load], noops: Sequence[Load], one: Load, shared: Sequence[float]
) -> dict[str, float | str | None]:
    return {
        "hits_per_s": median(load.per_s for load in hits),
        "noop_per_s": median(load.per_s for load in noops),
        "ratio": median(a.per_s / b.per_s for a, b in zip(hits, noops, strict=True)),
        "near_p50_ms": one.p50_us / 1e3,
        "near_p99_ms": one.p99_us / 1e3,
        "shared_p50_ms": p50_ms(shared) if shared else None,
        "p50_ms_32": median(load.p50_us for load in hits) / 1e3,
        "p99_ms_32": median(load.p99_us for load in hits) / 1e3,
    }


def hot_bodies(model: str, count: int) -> list[bytes]:
    """Requests that are kept, each never asked before."""
    return [_body(model, prompt) for prompt in _prompts(count)]


def _prompts(count: int) -> list[str]:
    """Never asked before, so that nobody's earlier answers are measured."""
    run = secrets.token_hex(4)
    return [f"{run}-{number}: name one colour." for number in range(count)]


def _body(model: str, prompt: str) -> bytes:
    options = {"temperature": 0, "seed": 1, "num_predict": 16}
    request = {"model": model, "prompt": prompt, "stream": False, "options": options}
    return json.dumps(request).encode()


def _warm(target: Target, bodies: Sequence[bytes]) -> int:
    """Each answer into each replica's near cache. The mean size of an answer, in bytes."""
    sizes: list[int] = []
    for url in target.ingress_urls:
        with target.connect(url) as replica:
            sizes += [len(until_verdict(replica, body, "hit; tier=near").body) for body in bodies]
    return sum(sizes) // len(sizes)


def until_verdict(replica: Connection, body: bytes, verdict: str) -> Answer:
    """Ask until the cache says `verdict`, which storing an answer may take a moment for."""
    deadline = time.monotonic() + _SETTLE_S
    while True:
        answer = replica.ask("/api/generate", body)
        if answer.status != 200:
            raise ConfigError(f"/api/generate answers {answer.status}: {answer.body.decode()}")
        if answer.verdict.startswith(verdict):
            return answer
        if time.monotonic() > deadline:
            raise ConfigError(
                f"asked again and again, the cache says {answer.verdict!r} instead of {verdict!r}; "
                "is it switched off in this config?"
            )


def _still_near(target: Target, bodies: Sequence[bytes]) -> None:
    """What the load generator can't see: that these were near hits, and still are."""
    with target.connect() as rayllama:
        for body in bodies:
            verdict = rayllama.ask("/api/generate", body).verdict
            if verdict != "hit; tier=near":
                raise ConfigError(f"after the load, the cache says {verdict!r}: nothing to report")


def _shared(target: Target, say: Say) -> list[float]:
    """Seconds to a hit on an answer that another replica computed, one connection."""
    if len(target.ingress_urls) < 2:
        say("one ingress replica: nothing to share, so no shared_p50_ms")
        return []
    first, second = target.ingress_urls[:2]
    say(f"{_SHARED} answers computed by one replica and asked of another")
    bodies = [_body(target.model, prompt) for prompt in _prompts(_SHARED)]
    found = []
    with target.connect(first) as here, target.connect(second) as there:
        for body in bodies:
            until_verdict(here, body, "hit")
        for body in bodies:
            answer = there.ask("/api/generate", body)
            if answer.verdict == "hit; tier=shared":
                found.append(answer.whole_s)
    if len(found) < _SHARED // 2:
        raise ConfigError(f"only {len(found)} of {_SHARED} answers were found by another replica")
    return found
