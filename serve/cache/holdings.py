"""What one shard holds: a store, a registry of what the engines list, and counts.

State without sockets: `serve.cache.shard` speaks for it.

A shard stores only what its registry vouches for, and hands out only what it still vouches for:
from the moment a shard hears of a changed tag, no ingress gets an old answer from it, however late
that ingress itself hears of the change.
"""

import secrets
import sys
from collections import Counter
from collections.abc import Collection
from typing import Literal

from serve.cache.catalogue import POLLS_A_REPORT_LIVES, Registry
from serve.cache.flights import Flights
from serve.cache.index import Selection
from serve.cache.ledger import Ledger
from serve.cache.moved import Moved, Restore
from serve.cache.protocol import Purge, Put, Stats
from serve.cache.store import Store, Stored
from serve.ports import Clock, Report
from serve.settings import CacheSettings

LEASES_A_FLIGHT_LIVES = 5
"""How long a leader may be silent, in `cache.lease_s`: longer than a busy event loop stalls."""


Fate = Literal[
    "taken",
    "expired",
    "present",  # there is one already
    "full",  # others would have to leave
    "too-large",  # over `cache.max_entry_bytes`
    "revoked",  # its tenant has no key any more
    "purged",  # there was a purge meanwhile
]
"""What becomes of an entry from a file."""


class Holdings:
    """One shard's share of the cache. `clock`: seconds, monotonic.

    `tenants`: whose entries may come back from a file (`serve.cache.warmth`, rule 7); None: all.
    """

    def __init__(
        self, settings: CacheSettings, clock: Clock, tenants: Collection[str] | None = None
    ) -> None:
        self._tenants = None if tenants is None else frozenset(tenants)
        self._settings = settings
        self._clock = clock
        self._max_bytes = settings.max_bytes // settings.shards
        self._hits = self._misses = self._stored = 0
        self._refused: Counter[str] = Counter()
        self.ledger = Ledger()
        self.store = Store(settings, self._max_bytes, clock)
        self.flights = Flights(clock, LEASES_A_FLIGHT_LIVES * settings.lease_s)
        self.registry = Registry(POLLS_A_REPORT_LIVES * settings.catalogue_poll_s)
        # Random, so that an ingress can tell a new shard from the one it knew; 0 is no shard's.
        self.generation = 1 + secrets.randbits(48)

    def get(self, key: bytes, *, is_quiet: bool = False) -> bytes | None:
        """The packed entry, if there is one that is still current. If `is_quiet`, not counted."""
        stored = self.store.get(key)
        if stored is not None:
            made_from = (stored.model, stored.digest, stored.fingerprint)
            # What isn't vouched for stays: the only replica may just be restarting.
            if self.registry.vouches(*made_from):
                self._hits += not is_quiet
                return stored.packed
        self._misses += not is_quiet
        return None

    def put(self, put: Put) -> str | None:
        """Store an entry. Returns why not, if it was refused."""
        refusal = self._refusal(put)
        if refusal is not None:
            self._refused[refusal] += 1
        else:
            self._stored += 1
        return refusal

    def _refusal(self, put: Put) -> str | None:
        if len(put.packed) > self._settings.max_entry_bytes:
            return "too-large"
        if self.registry.view.is_paused:
            return "paused"
        if put.generation not in (0, self.generation):
            return "purged"  # or made for the shard that was here before
        if not self.registry.vouches(put.model, put.digest, put.fingerprint):
            return "digest"
        now = self._clock()
        expires_at = now + min(put.ttl_s, self._settings.kept_s)
        # One object for all entries of a model: the message's own copies would weigh 300 bytes.
        view = self.registry.view
        model = sys.intern(put.model)
        made_from = (model, view.models[model].digest, view.runs(model))
        stored = Stored(put.packed, *made_from, expires_at, sys.intern(put.tenant), now)
        return None if self.store.put(put.key, stored) else "too-large"

    def restore(self, moved: Moved) -> Fate:
        """Take in an entry from a file, in nobody's place.

        It lives no longer than it would have, nor than one that was stored here at that time.
        """
        left_s = min(moved.left_s, self._settings.kept_s - moved.age_s)
        if self._tenants is not None and moved.tenant not in self._tenants:
            return "revoked"
        if left_s <= 0:
            return "expired"
        if len(moved.packed) > self._settings.max_entry_bytes:
            return "too-large"
        now = self._clock()
        stored = Stored(
            moved.packed,
            # One object for all entries of a model, as in `_refusal`.
            sys.intern(moved.model),
            sys.intern(moved.digest),
            sys.intern(moved.fingerprint),
            now + left_s,
            sys.intern(moved.tenant),
            now - moved.age_s,
        )
        if self.store.index.holds(moved.key, stored):
            return "present"
        return "taken" if self.store.restore(moved.key, stored) else "full"

    def restore_all(self, restore: Restore) -> dict[str, int]:
        """Take in those that may be. Returns how many met which fate."""
        if restore.generation not in (0, self.generation):
            return {"purged": len(restore.entries)}
        return dict(Counter(map(self.restore, restore.entries)))

    def report(self, report: Report) -> bool:
        """Take in what a replica sees. Did that change the view?"""
        return self.registry.report(report, self._clock()) is not None

    def tick(self) -> bool:
        """Forget silent replicas and leaders, and expired entries. Did that change the view?"""
        self.store.sweep()
        self.flights.expire()
        return self.registry.expire(self._clock()) is not None

    def purge(self, purge: Purge) -> tuple[int, int]:
        """Drop the entries that fit, and make near caches forget all of theirs; or only count.

        A model's are those that any of its names was asked for: they share their entries. Returns
        how many, and what they weigh.
        """
        if not purge.dry_run:
            self.generation += 1
            self.flights.outdate()
        models = self.registry.names_of(purge.model)
        which = Selection(models, purge.tenant, purge.key, purge.older_than_s)
        return self.store.purge(which, dry_run=purge.dry_run)

    def stats(self, ask_id: int, subscribers: int) -> Stats:
        """The counts since this shard started."""
        return Stats(
            id=ask_id,
            entries=self.store.entries,
            held_bytes=self.store.held_bytes,
            max_bytes=self._max_bytes,
            hits=self._hits,
            misses=self._misses,
            stored=self._stored,
            refused=dict(self._refused),
            evicted=dict(self.store.evictions),
            replicas=self.registry.replicas,
            subscribers=subscribers,
            flights=self.flights.count,
            led=self.flights.led,
            joined=self.flights.joined,
            tenants=self.store.index.tenants(),
            is_paused=self.registry.view.is_paused,
            counted=self.ledger.rows(),
        )
