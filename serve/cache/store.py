"""A shard's store: packed entries in `moka-py`, bounded by the bytes that they really take.

moka decides what leaves (LRU or TinyLFU), and drops what is too old or idle. Its clock is its own,
so how long an entry lives is decided here, by the clock handed in, and moka's TTL only frees the
memory of entries that nobody asks for.

moka can neither list its keys nor remove by a condition, so an index by model stands beside it,
kept true by moka's eviction listener. The listener may be called late, even after its key has been
stored anew; so it removes only the very object that it names.

Measured with moka-py 0.5 (README, "Decisions"): maintenance runs within `set`, but up to 64 entries
behind, and `clear` is counted only afterwards; so each change here ends in `run_pending_tasks`.
"""

from collections import Counter
from collections.abc import Iterator

from moka_py import Moka
from msgspec import Struct

from serve.ports import Clock
from serve.settings import CacheSettings

OVERHEAD_BYTES = 672
"""What an entry takes beside its key and packed bytes: moka's node and timer, two objects' headers,
the index's slot. Measured over 100,000 entries of 1 KiB and rounded up."""


LONGEST_S = 10 * 365 * 86400.0
"""Longer than any store lives: moka refuses times beyond its own limits."""


class Stored(Struct, frozen=True, gc=False):
    """A packed entry and what decides whether it may still be handed out."""

    packed: bytes
    model: str
    digest: str
    fingerprint: str
    expires_at: float


class Store:
    """Entries by key, at most `max_bytes` of them. Not for several threads at once."""

    def __init__(self, settings: CacheSettings, max_bytes: int, clock: Clock) -> None:
        self._clock = clock
        self._max_bytes = max_bytes
        self._by_model: dict[str, dict[bytes, Stored]] = {}
        self.evictions: Counter[str] = Counter()
        self.puts = 0
        self._moka: Moka[bytes, Stored] = Moka(
            max_bytes,
            tti=bounded(settings.idle_ttl_s),
            eviction_listener=self._evicted,
            policy=settings.eviction,
            weigher=weight,
        )

    def get(self, key: bytes) -> Stored | None:
        """The entry, unless it is too old."""
        stored: Stored | None = self._moka.get(key)
        if stored is not None and stored.expires_at <= self._clock():
            self.remove(key)
            return None
        return stored

    def put(self, key: bytes, stored: Stored) -> bool:
        """Keep an entry in the place of an older one. False if it is too large to be kept at all.

        A full store may also decide against it later (TinyLFU); then it is simply not there.
        """
        ttl_s = stored.expires_at - self._clock()
        if ttl_s <= 0 or weight(key, stored) > self._max_bytes:
            return False
        self._by_model.setdefault(stored.model, {})[key] = stored
        self._moka.set(key, stored, ttl=bounded(ttl_s))
        self._moka.run_pending_tasks()
        self.puts += 1
        return True

    def restore(self, key: bytes, stored: Stored) -> bool:
        """Keep an entry from a snapshot, unless there is one, or others would have to leave."""
        is_there = key in self._by_model.get(stored.model, ())
        if is_there or self.held_bytes + weight(key, stored) > self._max_bytes:
            return False
        return self.put(key, stored)

    def everything(self) -> Iterator[tuple[bytes, Stored]]:
        """All entries as they are now, expired ones too; nobody counts as having asked for them."""
        keys: list[bytes] = []
        entries: list[Stored] = []
        for index in self._by_model.values():
            keys += index
            entries += index.values()
        return zip(keys, entries, strict=True)

    def remove(self, key: bytes) -> bool:
        """Drop an entry. Was there one?"""
        found = self._moka.remove(key) is not None
        self._moka.run_pending_tasks()
        return found

    def purge(self, model: str = "") -> int:
        """Drop all entries, or those of one model. Returns how many."""
        if model:
            keys = list(self._by_model.get(model, ()))
            for key in keys:
                self._moka.remove(key)
        else:
            keys = [key for index in self._by_model.values() for key in index]
            self._moka.clear()
        self._moka.run_pending_tasks()
        return len(keys)

    def sweep(self) -> None:
        """Free what has expired. Called now and then; nothing else depends on it."""
        self._moka.run_pending_tasks()

    @property
    def entries(self) -> int:
        """How many entries are held."""
        return int(self._moka.count())

    @property
    def held_bytes(self) -> int:
        """What they weigh."""
        return int(self._moka.weighted_size())

    def _evicted(self, key: bytes, stored: Stored, cause: str) -> None:
        self.evictions[cause] += 1
        index = self._by_model.get(stored.model)
        if index is not None and index.get(key) is stored:
            del index[key]
            if not index:
                del self._by_model[stored.model]


def bounded(seconds: float | None) -> float | None:
    """A time that moka takes."""
    return None if seconds is None else min(seconds, LONGEST_S)


def weight(key: bytes, stored: Stored) -> int:
    """The bytes that an entry takes in memory."""
    return len(key) + len(stored.packed) + OVERHEAD_BYTES
