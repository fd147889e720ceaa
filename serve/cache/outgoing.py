"""The exports that one peer of a shard is in the middle of: each knows what it has yet to tell.

Only keys are held for that, never the entries: one that leaves meanwhile is freed, and not told.
The peer asks for each piece (`serve.cache.moved.Export`), so nothing piles up for one that is slow.
"""

from collections import deque
from collections.abc import Callable, Iterator
from itertools import count

from serve.cache.index import Selection
from serve.cache.moved import BYTES_AT_ONCE, ENTRIES_AT_ONCE, LOST, Export, Exported, Moved
from serve.cache.store import Store
from serve.ports import Clock

_AT_ONCE = 2
"""Exports of one peer; the oldest gives way."""

_Place = tuple[str, str, bytes]
"""Tenant, model, key."""


class Outgoing:
    """One peer's exports. `names_of`: a model's (`Registry`). `clock`: the store's."""

    def __init__(
        self, store: Store, names_of: Callable[[str], frozenset[str]], clock: Clock
    ) -> None:
        self._store = store
        self._names_of = names_of
        self._clock = clock
        self._cursors = count(1)
        self._open: dict[int, deque[_Place]] = {}

    def answer(self, export: Export) -> Exported:
        """The next entries of an export, or the first."""
        cursor = export.cursor
        if cursor == 0:
            cursor = self._begin(export)
        places = self._open.get(cursor)
        if places is None:
            return Exported(export.id, [], LOST)
        entries = list(self._some(places))
        if not places:
            del self._open[cursor]
            cursor = 0
        return Exported(export.id, entries, cursor)

    def _begin(self, export: Export) -> int:
        which = Selection(self._names_of(export.model), export.tenant)
        found = self._store.index.select(which, float("inf"))
        cursor = next(self._cursors)
        self._open[cursor] = deque((stored.tenant, stored.model, key) for key, stored in found)
        while len(self._open) > _AT_ONCE:
            del self._open[min(self._open)]
        return cursor

    def _some(self, places: deque[_Place]) -> Iterator[Moved]:
        """What is still there of the next places."""
        now, size = self._clock(), 0
        for _ in range(min(ENTRIES_AT_ONCE, len(places))):
            tenant, model, key = places.popleft()
            stored = self._store.index.find(tenant, model, key)
            if stored is None or stored.expires_at <= now:
                continue
            yield Moved(
                key,
                stored.packed,
                stored.model,
                stored.digest,
                stored.fingerprint,
                stored.tenant,
                stored.expires_at - now,
                max(0.0, now - stored.stored_at),
            )
            size += len(stored.packed)
            if size >= BYTES_AT_ONCE:
                return
