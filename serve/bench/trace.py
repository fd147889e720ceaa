"""Hit ratio by eviction policy and capacity: a trace replayed over the real store, by its own time.

No server: every request of the trace asks `serve.cache.store.Store` for its key, and stores an
entry of its answer's size where there is none. The clock is the trace's; moka's own, which only
ages entries that nobody asks for, stands still beside it.

Formats, told by their fields. JSON lines with `hash_ids` (Mooncake: `timestamp` in ms,
`output_length` in tokens): the same ids and input length are the same request. CSV with
`ContextTokens` and `GeneratedTokens` (Azure): it says nothing of what was asked, so the same two
lengths are taken for the same request, which is more repetition than there was. Either may be
compressed by xz.

The generator draws keys by a Zipf law; every `shift_every` requests the ranks move on, so that what
was popular no longer is.
"""

import csv
import json
import lzma
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal

import numpy as np
from msgspec import Struct

from serve.cache.store import Store, Stored, weight
from serve.errors import ConfigError
from serve.settings import CacheSettings

Say = Callable[[str], None]
Eviction = Literal["lru", "tiny_lfu"]

POLICIES: tuple[Eviction, ...] = ("lru", "tiny_lfu")
SHARES = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0)
"""Capacities, of what all the trace's answers weigh."""
BYTES_A_TOKEN = 4
"""Of English text, packed with what a chunk has around it."""
MOST_BYTES = 1 << 16
"""A longer answer is taken for one of this size, so that a simulation fits in memory."""

_ZEROS = bytes(MOST_BYTES)


class Request(Struct, frozen=True, gc=False):
    """One request: seconds since the trace began, what it asks for, and its answer's bytes."""

    at_s: float
    key: bytes
    size: int


def trace(source: str, *, requests: int, seed: int, say: Say) -> dict[str, Any]:
    """The figures by name; `source` is a file, or "" for the generator.

    Raises `ConfigError` for a file that isn't a trace.
    """
    asked = read(Path(source)) if source else generated(requests, seed=seed)
    whole = sum({one.key: _weight(one) for one in asked}.values())
    repeats = len(asked) - len({one.key for one in asked})
    say(f"{len(asked)} requests, {len(asked) - repeats} different ones, {whole >> 20} MiB")
    ratios: dict[str, dict[str, float]] = {policy: {} for policy in POLICIES}
    for share in SHARES:
        for policy in POLICIES:
            ratio = replay(asked, policy, round(whole * share))
            ratios[policy][f"{share:g}"] = round(ratio, 4)
        say(f"  {share:5.0%}  " + "  ".join(f"{p} {ratios[p][f'{share:g}']:.4f}" for p in POLICIES))
    return {
        "source": Path(source).name if source else f"zipf seed={seed}",
        "requests": len(asked),
        "distinct": len(asked) - repeats,
        "all_bytes": whole,
        "best_hit_ratio": round(repeats / len(asked), 4),
        "hit_ratio": ratios,
    }


def replay(asked: Iterable[Request], eviction: Eviction, max_bytes: int) -> float:
    """The share of requests that the store answers."""
    settings = CacheSettings(eviction=eviction)
    now, hits, total = 0.0, 0, 0
    store = Store(settings, max_bytes, lambda: now)
    for one in asked:
        now, total = one.at_s, total + 1
        if store.get(one.key) is not None:
            hits += 1
        else:
            store.put(one.key, _stored(one, now + settings.ttl_s))
    return hits / total


def generated(
    requests: int, *, seed: int, keys: int = 5_000, shift_every: int = 5_000, skew: float = 0.9
) -> list[Request]:
    """Requests at ten a second; the same for the same seed."""
    random = np.random.default_rng(seed)
    weights = 1.0 / np.arange(1, keys + 1) ** skew
    ranks = random.choice(keys, size=requests, p=weights / weights.sum())
    order = random.permutation(keys)
    moved = np.arange(requests) // shift_every * (keys // 10)
    drawn = order[(ranks + moved) % keys]
    sizes = np.clip(random.lognormal(6.5, 0.8, size=keys), 64, MOST_BYTES).astype(int)
    return [
        Request(number / 10, _key(int(one)), int(sizes[one])) for number, one in enumerate(drawn)
    ]


def read(path: Path) -> list[Request]:
    """The requests of a trace. Raises `ConfigError` where it is none."""
    opened = lzma.open if path.suffix == ".xz" else open
    try:
        with opened(path, "rt", encoding="utf-8") as lines:
            asked = list(_parsed(lines))
    except (OSError, lzma.LZMAError, ValueError, LookupError, TypeError) as fault:
        raise ConfigError(f"{path} is no trace: {type(fault).__name__}: {fault}") from fault
    if not asked:
        raise ConfigError(f"{path} is no trace: it has no requests")
    return asked


def _parsed(lines: Iterator[str]) -> Iterator[Request]:
    first = next(lines, "")
    if first.startswith("{"):
        for line in (first, *lines):
            row = json.loads(line)
            key = _key(row["hash_ids"], row["input_length"])
            yield Request(row["timestamp"] / 1e3, key, _size(row["output_length"]))
        return
    rows = csv.DictReader(lines, fieldnames=next(csv.reader([first]), []))
    begun: float | None = None
    for cells in rows:
        at_s = datetime.fromisoformat(cells["TIMESTAMP"][:26]).replace(tzinfo=UTC).timestamp()
        begun = at_s if begun is None else begun
        key = _key(cells["ContextTokens"], cells["GeneratedTokens"])
        yield Request(at_s - begun, key, _size(int(cells["GeneratedTokens"])))


def _size(tokens: int) -> int:
    return min(MOST_BYTES, BYTES_A_TOKEN * tokens)


def _key(*parts: int | str | Sequence[int]) -> bytes:
    return blake2b(json.dumps(parts).encode(), digest_size=16).digest()


def _stored(one: Request, expires_at: float) -> Stored:
    return Stored(_ZEROS[: one.size], "m", "d", "f", expires_at)


def _weight(one: Request) -> int:
    return weight(one.key, _stored(one, 0.0))
