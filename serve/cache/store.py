"""A shard's store: packed entries in `moka-py`, bounded by the bytes that they really take.

moka decides what leaves (LRU or TinyLFU), and drops what is too old or idle. Its clock is its own,
so how long an entry lives is decided here, by the clock handed in, and moka's TTL only frees the
memory of entries that nobody asks for.

moka can neither list its keys nor remove by a condition, so an index by tenant and model stands
beside it (`serve.cache.index`), kept true by moka's eviction listener. It also knows what leaves
for one tenant to stay within its share.

Measured with moka-py 0.5 (README, "Decisions"): maintenance runs within `set`, but up to 64 entries
behind, and `clear` is counted only afterwards; so each change here ends in `run_pending_tasks`.
"""

from collections import Counter
from collections.abc import Iterator

from moka_py import Moka
from msgspec import Struct

from serve.cache.index import ALL, Index, Selection
from serve.ports import Clock
from serve.settings import CacheSettings

OVERHEAD_BYTES = 720
"""What an entry takes beside its key and packed bytes: moka's node and timer, two objects' headers,
the index's slot. Measured over 100,000 entries of 1 KiB and rounded up."""

ORDER_BYTES = 112
"""What it takes besides where tenants are held to a share, and so the order of use is kept."""

LONGEST_S = 10 * 365 * 86400.0
"""Longer than any store lives: moka refuses times beyond its own limits."""


class Stored(Struct, frozen=True, gc=False):
    """A packed entry and what decides whether it may still be handed out.

    `expires_at`, `stored_at`: by the store's clock.
    """

    packed: bytes
    model: str
    digest: str
    fingerprint: str
    expires_at: float
    tenant: str = ""
    stored_at: float = 0.0


class Store:
    """Entries by key, at most `max_bytes` of them. Not for several threads at once."""

    def __init__(self, settings: CacheSettings, max_bytes: int, clock: Clock) -> None:
        self._clock = clock
        self._max_bytes = max_bytes
        share = settings.tenant_share
        self._weigh = weight if share == 1 else ordered_weight
        share_bytes = None if share == 1 else int(share * max_bytes)
        self.index: Index[Stored] = Index(self._weigh, share_bytes)
        self.evictions: Counter[str] = Counter()
        self._removal = "explicit"
        self.puts = 0
        self._moka: Moka[bytes, Stored] = Moka(
            max_bytes,
            tti=bounded(settings.idle_ttl_s),
            eviction_listener=self._evicted,
            policy=settings.eviction,
            weigher=self._weigh,
        )

    def get(self, key: bytes) -> Stored | None:
        """The entry, unless it is too old."""
        stored: Stored | None = self._moka.get(key)
        if stored is not None and stored.expires_at <= self._clock():
            self.remove(key)
            return None
        if stored is not None:
            self.index.use(key, stored)
        return stored

    def put(self, key: bytes, stored: Stored) -> bool:
        """Keep an entry in the place of an older one. False if it is too large to be kept at all.

        A full store may also decide against it later (TinyLFU); then it is simply not there.
        """
        ttl_s = stored.expires_at - self._clock()
        size = self._weigh(key, stored)
        if ttl_s <= 0 or size > self._max_bytes or not self.index.fits(size):
            return False
        self.index.add(key, stored)
        self._moka.set(key, stored, ttl=bounded(ttl_s))
        self._moka.run_pending_tasks()
        self.puts += 1
        self._removal = "share"
        for surplus in self.index.surplus(stored.tenant):
            self.remove(surplus)
        self._removal = "explicit"
        return True

    def restore(self, key: bytes, stored: Stored) -> bool:
        """Keep an entry from a snapshot, unless there is one, or others would have to leave."""
        is_there = self.index.holds(key, stored)
        if is_there or self.held_bytes + self._weigh(key, stored) > self._max_bytes:
            return False
        return self.put(key, stored)

    def everything(self) -> Iterator[tuple[bytes, Stored]]:
        """All entries as they are now, expired ones too; nobody counts as having asked for them."""
        return iter(list(self.index.select(ALL, float("inf"))))

    def remove(self, key: bytes) -> bool:
        """Drop an entry. Was there one?"""
        found = self._moka.remove(key) is not None
        self._moka.run_pending_tasks()
        return found

    def purge(self, which: Selection = ALL, *, dry_run: bool = False) -> tuple[int, int]:
        """Drop the entries that fit. Returns how many, and what they weigh."""
        found = list(self.index.select(which, self._clock()))
        if not dry_run:
            for key, _ in found:
                self._moka.remove(key)
            self._moka.run_pending_tasks()
        return len(found), sum(self._weigh(key, stored) for key, stored in found)

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
        self.evictions[self._removal if cause == "explicit" else cause] += 1
        self.index.drop(key, stored)


def bounded(seconds: float | None) -> float | None:
    """A time that moka takes."""
    return None if seconds is None else min(seconds, LONGEST_S)


def weight(key: bytes, stored: Stored) -> int:
    """The bytes that an entry takes in memory."""
    return len(key) + len(stored.packed) + OVERHEAD_BYTES


def ordered_weight(key: bytes, stored: Stored) -> int:
    """The same where the order of use is kept."""
    return weight(key, stored) + ORDER_BYTES
