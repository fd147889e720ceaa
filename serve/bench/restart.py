"""A shard that comes back: how long until its first hit, until all is warm, and what entries weigh.

The shard runs in a process of its own (`serve.bench.lone_shard`), as the cache actor runs it but
without Ray: how long Serve takes to start an actor is Serve's, and would only blur the figures.
Everything else is real: the socket, the file, and a client as an ingress has.

An entry is an answer of 1 KiB of English text in one piece, packed as the ingress packs it; the
text is that of Python's own manual, each time another piece. `bytes_per_entry` is how much the
shard's resident memory grew, divided by the entries. A streamed answer repeats much in each of its
lines and takes more: `packed_streamed_bytes` beside `packed_bytes` says how much.
"""

import asyncio
import json
import subprocess
import sys
import tempfile
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from hashlib import blake2b
from pydoc_data.topics import topics
from statistics import fmean
from time import monotonic, time

import psutil

from serve.bench.figures import rounded
from serve.cache.client import ShardClient
from serve.cache.entry import Entry
from serve.cache.protocol import Put
from serve.errors import CacheUnavailable, ConfigError
from serve.ports import Model, Report
from serve.settings import CacheSettings, SnapshotSettings

_MODEL, _DIGEST, _FINGERPRINT = "bench:latest", "sha256:" + "0" * 64, "bench"
_TEXT_BYTES = 1024
_SAMPLE = 64
_WITHIN_S = 60.0
_AT_ONCE = 500

Say = Callable[[str], None]
Figures = dict[str, float | str | None]


def restart(*, entries: int, say: Say) -> Figures:
    """The figures by name. Raises `ConfigError` where there is nothing to report."""
    if entries < 1:
        raise ConfigError("--entries: at least one")
    with tempfile.TemporaryDirectory(prefix="rayllama-bench-") as folder:
        snapshot = SnapshotSettings(url=folder, interval_s=3600)
        settings = CacheSettings(
            max_bytes=entries * 16384 + (1 << 20),
            ttl_s=86400,
            catalogue_poll_s=60,  # one report is enough for all of it
            snapshot=snapshot,
        )
        try:
            return asyncio.run(_measured(settings, entries, say))
        except (CacheUnavailable, TimeoutError) as error:
            raise ConfigError(f"the shard did not answer in time: {error}") from error


async def _measured(settings: CacheSettings, entries: int, say: Say) -> Figures:
    say(f"{entries} entries into a shard")
    sizes: list[int] = []
    async with _shard(settings) as (process, client):
        before = psutil.Process(process.pid).memory_info().rss
        for number, packed in enumerate(_answers(entries)):
            sizes.append(len(packed))
            put = Put(_key(number), packed, _MODEL, _DIGEST, _FINGERPRINT, settings.ttl_s)
            await _until(partial(_is_put, client, put))
            if number % _AT_ONCE == 0:
                await client.stats()
        held = (await client.stats()).entries
        grown = psutil.Process(process.pid).memory_info().rss - before
    if held != entries:
        raise ConfigError(f"the shard holds {held} of {entries} entries: nothing to report")
    say("the shard is stopped, and started again")
    started = monotonic()
    async with _shard(settings) as (_, client):
        first_hit_s = await _first_hit(client, entries) - started
        all_warm_s = await _all_warm(client, entries) - started
        lost = entries - await _hits(client, range(entries))
    return rounded(
        {
            "first_hit_s": first_hit_s,
            "all_warm_s": all_warm_s,
            "bytes_per_entry": grown / entries,
            "entries": entries,
            "lost": lost,
            "packed_bytes": fmean(sizes),
            "packed_streamed_bytes": fmean(len(_streamed(n)) for n in range(_SAMPLE)),
        }
    )


@asynccontextmanager
async def _shard(
    settings: CacheSettings,
) -> AsyncGenerator[tuple[subprocess.Popen[str], ShardClient]]:
    """A shard that has begun to listen, and a client that has told it of the model."""
    command = [sys.executable, "-m", "serve.bench.lone_shard", settings.model_dump_json()]
    with subprocess.Popen(  # noqa: ASYNC220, S603  (ourselves; nothing else runs here)
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        said = await asyncio.to_thread(process.stdout.readline) if process.stdout else ""
        if not said:
            raise ConfigError("the shard did not start")
        port, secret = json.loads(said)

        async def resolve() -> tuple[str, int, bytes]:
            return "127.0.0.1", port, bytes.fromhex(secret)

        async with ShardClient(resolve, clock=monotonic, lease_s=settings.lease_s) as client:

            async def is_connected() -> bool:
                return client.is_connected

            await _until(is_connected)
            client.report(Report("bench", "1", _FINGERPRINT, {_MODEL: Model(_DIGEST, b"{}")}))
            yield process, client
        # Leaving the block closes the standard input, upon which the shard writes and stops.


async def _first_hit(client: ShardClient, entries: int) -> float:
    some = range(0, entries, max(1, entries // _SAMPLE))
    await _until(lambda: _hits(client, some))
    return monotonic()


async def _all_warm(client: ShardClient, entries: int) -> float:
    async def is_warm() -> bool:
        return (await client.stats()).entries >= entries

    await _until(is_warm)
    return monotonic()


async def _is_put(client: ShardClient, put: Put) -> bool:
    return client.put(put)


async def _until(condition: Callable[[], Awaitable[object]]) -> None:
    """Ask again and again: what is waited for happens in another process, which tells nobody."""
    async with asyncio.timeout(_WITHIN_S):
        while not await condition():  # noqa: ASYNC110 - as said
            await asyncio.sleep(0.005)


async def _hits(client: ShardClient, numbers: range) -> int:
    hits = 0
    for at in range(0, len(numbers), _AT_ONCE):
        asked = [client.get(_key(number), _WITHIN_S) for number in numbers[at : at + _AT_ONCE]]
        hits += sum(found is not None for found in await asyncio.gather(*asked))
    return hits


def _key(number: int) -> bytes:
    return blake2b(number.to_bytes(8, "big"), digest_size=16).digest()


def _answers(entries: int) -> Iterator[bytes]:
    manual = _manual()
    step = max(1, (len(manual) - _TEXT_BYTES) // entries)
    for number in range(entries):
        at = number * step % (len(manual) - _TEXT_BYTES)
        yield _packed([manual[at : at + _TEXT_BYTES]])


def _streamed(number: int) -> bytes:
    """The same as the engine streams it: a line a token of four characters or so."""
    manual = _manual()
    text = manual[number * _TEXT_BYTES :][:_TEXT_BYTES]
    return _packed([text[at : at + 4] for at in range(0, len(text), 4)])


def _manual() -> str:
    return "".join(text for _, text in sorted(topics.items())).encode("ascii", "ignore").decode()


def _packed(texts: list[str]) -> bytes:
    """An answer in these pieces, with what Ollama says beside them."""
    now = time()
    lines = [
        {
            "model": _MODEL,
            "created_at": f"2026-01-01T00:00:00.{(number * 31_415_926) % 10**9:09}Z",
            "response": text,
            "done": False,
        }
        for number, text in enumerate(texts)
    ]
    lines[-1] |= {
        "done": True,
        "done_reason": "stop",
        "total_duration": 2_345_678_901,
        "load_duration": 12_345_678,
        "prompt_eval_count": 26,
        "prompt_eval_duration": 34_567_890,
        "eval_count": _TEXT_BYTES // 4,
        "eval_duration": 2_298_765_432,
    }
    encoded = tuple(json.dumps(line, separators=(",", ":")).encode() for line in lines)
    facts = (_MODEL, _MODEL, _DIGEST, _FINGERPRINT)
    return Entry(*facts, 200, "application/x-ndjson", now, encoded).pack()
