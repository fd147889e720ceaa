"""What the cache's tests stand on: a clock moved by hand, a real shard on loopback, a real engine's
lines (from the recordings of Ollama 0.33)."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any

from serve.cache.client import Address
from serve.cache.entry import Entry
from serve.cache.protocol import Put
from serve.cache.shard import ShardServer
from serve.ports import Clock, Model, Report
from serve.settings import CacheSettings

MODEL = "registry.ollama.ai/library/smollm2:135m"
OTHER = "registry.ollama.ai/library/all-minilm:latest"
OTHER_DIGEST = "1b226e2802dbb772b5fc32a58f103ca1804ef7501331012de126ab22f67475ef"
DIGEST = "fd5f44c0b5aff6453726119fc560d73a8a995a55b4a49804bc24b1969ecf1794"
FINGERPRINT = "0.33.0 ctx=2048"
SECRET = b"s" * 32
KEY = b"k" * 16

GENERATED = (
    b'{"model":"smollm2:135m","created_at":"2026-11-23T14:27:00.741500588Z",'
    b'"response":"The","done":false}',
    b'{"model":"smollm2:135m","created_at":"2026-11-23T14:27:00.748512391Z",'
    b'"response":" sky","done":false}',
    b'{"model":"smollm2:135m","created_at":"2026-11-23T14:27:00.823980347Z","response":"",'
    b'"done":true,"done_reason":"stop","context":[1,4093],"total_duration":127465353,'
    b'"load_duration":1605625,"prompt_eval_count":12,"prompt_eval_duration":37607000,'
    b'"eval_count":2,"eval_duration":82489000}',
)
CHATTED = (
    b'{"model":"smollm2:135m","created_at":"2026-11-23T14:27:06.741500588Z",'
    b'"message":{"role":"assistant","content":"Hello"},"done":false}',
    b'{"model":"smollm2:135m","created_at":"2026-11-23T14:27:06.823980347Z",'
    b'"message":{"role":"assistant","content":""},"done":true,"done_reason":"stop",'
    b'"total_duration":127465353,"prompt_eval_count":12,"eval_count":2,"eval_duration":82489000}',
)
EMBEDDED = (
    b'{"model":"all-minilm","embeddings":[[-0.33864105,0.2954537,0.27984756]],'
    b'"total_duration":10034836,"load_duration":1051127,"prompt_eval_count":3}',
)


class HandClock:
    """A clock that stands still until it is moved."""

    def __init__(self, seconds: float = 1000.0) -> None:
        self.seconds = seconds

    def __call__(self) -> float:
        return self.seconds

    def advance(self, seconds: float) -> None:
        self.seconds += seconds


async def until(holds: Callable[[], bool], within_s: float = 10.0) -> None:
    """Wait for a condition; fail if it doesn't come to hold."""
    deadline = monotonic() + within_s
    while not holds():
        assert monotonic() < deadline, "it never came to hold"
        await asyncio.sleep(0.002)


def report(
    replica: str = "r1", fingerprint: str = FINGERPRINT, version: str = "0.33.0", **digests: str
) -> Report:
    """What a replica sees; by default one model. `report(m="d1")`: model m has the digest d1."""
    models = {
        name: Model(digest, b"{}", is_dated=False)
        for name, digest in (digests or {MODEL: DIGEST}).items()
    }
    return Report(replica, version, fingerprint, models)


def entry(lines: tuple[bytes, ...] = GENERATED, **changes: str) -> Entry:
    facts: dict[str, Any] = {
        "model": MODEL,
        "spelled": "smollm2:135m",
        "digest": DIGEST,
        "fingerprint": FINGERPRINT,
        "content_type": "application/x-ndjson",
    }
    return Entry(
        **(facts | changes),
        status=200,
        stored_at=1_800_000_000.0,
        lines=lines,
    )


def put(
    key: bytes = KEY,
    packed: bytes = b"packed",
    *,
    digest: str = "",
    ttl_s: float = 60.0,
    model: str = MODEL,
) -> Put:
    digest = digest or (OTHER_DIGEST if model == OTHER else DIGEST)
    return Put(key, packed, model, digest, FINGERPRINT, ttl_s)


@asynccontextmanager
async def shard(
    settings: CacheSettings | None = None, clock: Clock = monotonic
) -> AsyncGenerator[tuple[ShardServer, Address]]:
    """A real shard on a loopback port, and where it is."""
    server = ShardServer(SECRET, settings or CacheSettings(), clock)
    host, port = await server.start()
    try:
        yield server, (host, port, SECRET)
    finally:
        await server.stop()


def at(address: Address) -> Callable[[], "asyncio.Future[Address]"]:
    """A resolver that knows the shard's address."""

    def resolve() -> "asyncio.Future[Address]":
        known: asyncio.Future[Address] = asyncio.get_running_loop().create_future()
        known.set_result(address)
        return known

    return resolve
