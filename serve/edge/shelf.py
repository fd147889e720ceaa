"""Which answers are at the edge: what is hot, within a budget.

Each entry has a heat: the hits that brought it, halved at every counting, plus those that the proxy
has counted since. Where there is no room the coldest leave; so does what has gone cold.
"""

from collections.abc import Callable, Mapping

from msgspec import Struct

from serve.edge.protocol import Hot
from serve.edge.value import Facts, value_of

OVERHEAD_BYTES = 400
"""What an entry takes in the proxy and here beside its value: the nodes of two trees, its count in
the stick table, its key thrice. 10,000 entries of 2 KB were seen to take 27 MB."""
_COLD = 0.1
_SPARE = 20
"""Where there is no room, one in so many leaves: so that the next few find some."""


class Entry(Struct, gc=False):
    """One answer. `expires_at`: by the feeder's clock. The rest as in `protocol.Hot`."""

    key: str
    value: bytes
    model: str
    digest: str
    fingerprint: str
    shared_key: bytes
    tenant: str
    tokens: int
    gpu_ns: int
    stored_at: float
    expires_at: float
    heat: float
    touched_at: float

    @property
    def size(self) -> int:
        """What it takes up, in bytes."""
        return len(self.value) + OVERHEAD_BYTES


def entry_of(hot: Hot, clock: float, now: float) -> Entry:
    """What an ingress has told, as an entry. `clock`: the feeder's; `now`: since the epoch.

    The clock of the node that stored it may be ahead of this one's or behind: it isn't told as from
    the future, and it ends when it is as old as it may grow, so that `ttl` never falls below 0.
    """
    stored_at = min(hot.stored_at, now)
    left_s = min(hot.left_s, stored_at + hot.lifetime_s - now)
    facts = Facts(stored_at, now + left_s, hot.lifetime_s, hot.shared_key)
    return Entry(
        hot.key,
        value_of(facts, hot.kind, hot.body),
        hot.model,
        hot.digest,
        hot.fingerprint,
        hot.shared_key,
        hot.tenant,
        hot.tokens,
        hot.gpu_ns,
        hot.stored_at,
        expires_at=clock + left_s,
        heat=hot.hits,
        touched_at=clock,
    )


class Shelf:
    """The entries that belong at the edge, by key."""

    def __init__(self, max_bytes: int, max_entries: int) -> None:
        self._max_bytes = max_bytes
        self._max_entries = max_entries
        self.entries: dict[str, Entry] = {}
        self.held_bytes = 0
        self.removed = 0
        self._left: dict[str, Entry] = {}

    def put(self, entry: Entry) -> bool:
        """Take it, in the place of one with the same key. False if there are hotter ones enough."""
        if entry.size > self._max_bytes or not self._max_entries:
            return False
        self._remove(entry.key)
        if not self._make_room(entry):
            return False
        self.entries[entry.key] = entry
        self.held_bytes += entry.size
        return True

    def keep(self, is_good: Callable[[Entry], bool]) -> None:
        """Take off all but the good ones."""
        for key in [key for key, entry in self.entries.items() if not is_good(entry)]:
            self._remove(key)

    def known(self, key: str) -> Entry | None:
        """What is there, or was since the last counting."""
        return self.entries.get(key) or self._left.get(key)

    def counted(self, hits: Mapping[str, int]) -> None:
        """Some time has passed, with these hits: the cold ones leave."""
        self._left.clear()
        for key, entry in self.entries.items():
            entry.heat = entry.heat / 2 + hits.get(key, 0)
        self.keep(lambda entry: entry.heat >= _COLD)

    def _remove(self, key: str) -> None:
        gone = self.entries.pop(key, None)
        if gone is not None:
            self.held_bytes -= gone.size
            self.removed += 1
            self._left[key] = gone

    def _make_room(self, entry: Entry) -> bool:
        """For an entry, in the place of colder ones. Returns False, and removes none, if not."""
        bytes_over = self.held_bytes + entry.size - self._max_bytes
        number_over = len(self.entries) + 1 - self._max_entries
        if bytes_over <= 0 and number_over <= 0:
            return True
        coldest = sorted(self.entries.values(), key=lambda one: one.heat)
        colder = [one for one in coldest if one.heat <= entry.heat]
        going = 0
        while bytes_over > 0 or going < number_over:
            if going == len(colder):
                return False
            bytes_over -= colder[going].size
            going += 1
        for one in colder[: max(going, len(coldest) // _SPARE)]:
            self._remove(one.key)
        return True
