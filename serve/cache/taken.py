"""Who has taken in which change, and so: when is a change true everywhere?

A shard numbers what it tells its subscribers (`protocol.Viewed`): a changed view, a purge. A
subscriber answers each with `Taken`, right after it has put the news into force. Whoever changed
something may ask to be told when no ingress can serve what was before it (`protocol.Confirm`, and
`Purge`, whose own answer waits for that). That is so when each ingress has either said `Taken`, or
may believe nothing it knew before, since its lease has ended (`serve.cache.catalogue`, rule 3).

1. The ingress counts a lease from when it *sent* a renewal, the shard from when it *answered* it,
   which is later; both last `lease_s`. So, as long as clocks run equally fast, the lease is over in
   the ingress before it is over here. Nothing needs to be added.
2. A renewal that is answered after a change was told lengthens no wait for that change: what is
   said on a connection arrives in order, so that who hears this answer has heard the news. What
   counts is the last renewal answered *before* the change. So no wait lasts longer than `lease_s`,
   whatever a peer does or doesn't.
3. Who subscribes after a change was told it with its first view.
4. A connection that the peer closes ends the wait for it: an ingress gives up its lease before it
   closes one, and one that died serves nothing. A connection that *we* cut, because its peer does
   not read or makes no sense, says nothing of that kind: its peer may be serving under its lease,
   which we wait for. (Its kernel hears of the cut; the ingress need not have.) Nor does one of a
   subscriber that `lingers`: it feeds a proxy, which serves on under the lease when it has died.
5. A shard that takes the place of one that died can't know whom that one gave a lease. All of those
   have ended `lease_s` after the new one began, and until then nothing is confirmed.

Plain state: the time is handed in, and `due` must be asked again at `next_s`.
"""

from dataclasses import dataclass, field
from typing import Generic, TypeVar

from serve.ports import Clock


@dataclass
class _Subscriber:
    """`until`: when its lease ends if no renewal is answered; `before`: the same, as it was when
    the last change was told."""

    taken: int
    until: float
    before: float
    is_cut: bool = False


_Asker = TypeVar("_Asker")


@dataclass
class _Wait(Generic[_Asker]):
    """Somebody waits for `change`; `open`: those who may serve what was before, and how long."""

    asker: _Asker
    change: int
    until: float
    open: dict[int, float] = field(default_factory=dict)


class Taken(Generic[_Asker]):
    """The subscribers of one shard, by number, and those who wait for them.

    `clock`: seconds, monotonic. `has_forerunner`: there may have been another shard in this place.
    """

    def __init__(self, lease_s: float, clock: Clock, *, has_forerunner: bool = False) -> None:
        self._lease_s = lease_s
        self._clock = clock
        self._subscribers: dict[int, _Subscriber] = {}
        self._waits: list[_Wait[_Asker]] = []
        self._forerunner_until = clock() + lease_s if has_forerunner else float("-inf")
        self.change = 0
        """The number of the last change."""

    def changed(self) -> int:
        """There is a change, which everybody is told now. Returns its number."""
        self.change += 1
        for subscriber in self._subscribers.values():
            subscriber.before = subscriber.until
        return self.change

    def subscribed(self, number: int) -> None:
        """Somebody is told the view, with all changes so far, and given a lease."""
        self._prune()
        until = self._clock() + self._lease_s
        self._subscribers[number] = _Subscriber(self.change, until, until)

    def renewed(self, number: int) -> None:
        """A renewal is answered; not every peer that renews is a subscriber."""
        subscriber = self._subscribers.get(number)
        if subscriber is not None:
            subscriber.until = self._clock() + self._lease_s

    def taken(self, number: int, change: int) -> None:
        """A subscriber says that it has taken in this change, and so all before it."""
        subscriber = self._subscribers.get(number)
        if subscriber is None:
            return
        subscriber.taken = max(subscriber.taken, change)
        for wait in self._waits:
            if wait.change <= change:
                wait.open.pop(number, None)

    def left(self, number: int, *, is_cut: bool) -> None:
        """A connection is gone; `is_cut`: it was we who closed it, or its end says nothing."""
        subscriber = self._subscribers.get(number)
        if subscriber is None:
            return
        if is_cut:
            subscriber.is_cut = True
            return
        del self._subscribers[number]
        for wait in self._waits:
            wait.open.pop(number, None)

    def wait(self, asker: _Asker) -> None:
        """Somebody wants to know when all changes so far are true everywhere."""
        behind = {
            number: subscriber.before
            for number, subscriber in self._subscribers.items()
            if subscriber.taken < self.change
        }
        self._waits.append(_Wait(asker, self.change, self._forerunner_until, behind))

    def due(self) -> list[_Asker]:
        """Those who need wait no more, each told once, in the order in which they came."""
        if not self._waits:
            return []
        now = self._clock()
        over = [wait for wait in self._waits if _end(wait) <= now]
        self._waits = [wait for wait in self._waits if _end(wait) > now]
        return [wait.asker for wait in over]

    def _prune(self) -> None:
        now = self._clock()
        ended = [n for n, one in self._subscribers.items() if one.is_cut and one.until <= now]
        for number in ended:
            del self._subscribers[number]

    @property
    def next_s(self) -> float | None:
        """In how many seconds `due` has more to say if nothing happens; None: never."""
        if not self._waits:
            return None
        return max(0.0, min(map(_end, self._waits)) - self._clock())


def _end(wait: _Wait[_Asker]) -> float:
    return max(wait.until, max(wait.open.values(), default=wait.until))
