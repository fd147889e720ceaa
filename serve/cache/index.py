"""Which entries a store holds, by tenant and model, and how much each tenant holds.

moka can't list its keys, so this stands beside it. An entry takes one slot, in the table of its
tenant and model: there are few tables, and going through all of a model's or a tenant's is cheap.

A tenant may be held to a share of the store. What is over it leaves as from a store of that size:
the tenant's own entries that were asked for least recently, whatever the store's policy. (To refuse
the new entry instead would keep what nobody asks for any more until its time is over, and keep out
what is being asked for now.) Only then is the order of use kept, at `store.ORDER_BYTES` an entry.

The store's listener may be late, even after a key was stored anew; so an entry is dropped from here
only as the very object that it is.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, Protocol, TypeVar

from msgspec import Struct


class Facts(Protocol):
    """What is known of an entry. `stored_at`: by the store's clock."""

    @property
    def model(self) -> str:
        """The canonical name."""
        ...

    @property
    def tenant(self) -> str:
        """Whose it is."""
        ...

    @property
    def stored_at(self) -> float:
        """When it was stored, in seconds by the store's clock."""
        ...


class Selection(Struct, frozen=True):
    """Entries that fit all that is said; with nothing said, all.

    `models`: of one of these names. `older_than_s`: stored at least so many seconds ago.
    """

    models: frozenset[str] = frozenset()
    tenant: str = ""
    key: bytes = b""
    older_than_s: float = 0.0


ALL = Selection()

_Entry = TypeVar("_Entry", bound=Facts)


class _Held(Generic[_Entry]):
    """One tenant's entries."""

    def __init__(self) -> None:
        self.by_model: dict[str, dict[bytes, _Entry]] = {}
        self.held_bytes = 0
        self.used: OrderedDict[bytes, _Entry] = OrderedDict()
        """By last use, the latest last; empty where no tenant is held to a share."""

    @property
    def entries(self) -> int:
        return sum(map(len, self.by_model.values()))


class Index(Generic[_Entry]):
    """`share_bytes`: what one tenant may hold; None: all. `weigh`: what an entry takes."""

    def __init__(self, weigh: Callable[[bytes, _Entry], int], share_bytes: int | None) -> None:
        self._weigh = weigh
        self._share_bytes = share_bytes
        self._tenants: dict[str, _Held[_Entry]] = {}

    def add(self, key: bytes, entry: _Entry) -> None:
        """An entry is being stored, in the place of an older one if there is one."""
        held = self._tenants.setdefault(entry.tenant, _Held())
        of_model = held.by_model.setdefault(entry.model, {})
        known = of_model.get(key)
        if known is not None:
            held.held_bytes -= self._weigh(key, known)
        of_model[key] = entry
        held.held_bytes += self._weigh(key, entry)
        if self._share_bytes is not None:
            held.used[key] = entry
            held.used.move_to_end(key)

    def drop(self, key: bytes, entry: _Entry) -> None:
        """An entry has left the store."""
        held = self._tenants.get(entry.tenant)
        of_model = held.by_model.get(entry.model) if held is not None else None
        if held is None or of_model is None or of_model.get(key) is not entry:
            return
        del of_model[key]
        held.held_bytes -= self._weigh(key, entry)
        if held.used.get(key) is entry:
            del held.used[key]
        if not of_model:
            del held.by_model[entry.model]
            if not held.by_model:
                del self._tenants[entry.tenant]

    def use(self, key: bytes, entry: _Entry) -> None:
        """An entry was asked for."""
        held = self._tenants.get(entry.tenant)
        if held is not None and key in held.used:
            held.used.move_to_end(key)

    def fits(self, size: int) -> bool:
        """Can one entry of this size be within a tenant's share?"""
        return self._share_bytes is None or size <= self._share_bytes

    def surplus(self, tenant: str) -> list[bytes]:
        """The entries that must leave for a tenant to be within its share."""
        held = self._tenants.get(tenant)
        if held is None or self._share_bytes is None:
            return []
        over, leaving = held.held_bytes - self._share_bytes, list[bytes]()
        for key, entry in held.used.items():
            if over <= 0:
                break
            leaving.append(key)
            over -= self._weigh(key, entry)
        return leaving

    def select(self, which: Selection, now: float) -> Iterator[tuple[bytes, _Entry]]:
        """The entries that fit. Nothing may be added or dropped before the last is taken."""
        latest = now - which.older_than_s
        for tenant, held in self._tenants.items():
            for model, of_model in held.by_model.items():
                if which.tenant in ("", tenant) and (not which.models or model in which.models):
                    for key, entry in _narrowed(of_model, which.key):
                        if entry.stored_at <= latest:
                            yield key, entry

    def holds(self, key: bytes, entry: _Entry) -> bool:
        """Is there an entry of this key, for the same tenant and model?"""
        held = self._tenants.get(entry.tenant)
        return held is not None and key in held.by_model.get(entry.model, ())

    def find(self, tenant: str, model: str, key: bytes) -> _Entry | None:
        """An entry, asked for by nobody."""
        held = self._tenants.get(tenant)
        return None if held is None else held.by_model.get(model, {}).get(key)

    def tenants(self) -> dict[str, tuple[int, int]]:
        """The entries and bytes that each tenant holds."""
        return {name: (held.entries, held.held_bytes) for name, held in self._tenants.items()}


def _narrowed(entries: dict[bytes, _Entry], key: bytes) -> Iterable[tuple[bytes, _Entry]]:
    """All of them, or the one of a key."""
    if not key:
        return entries.items()
    return [(key, entries[key])] if key in entries else []
