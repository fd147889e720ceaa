"""One connection's seats in the shard's flights: `serve.cache.flights` in the protocol's words."""

from collections.abc import Iterable

from serve.cache.flights import Seat
from serve.cache.holdings import Holdings
from serve.cache.protocol import (
    Closed,
    Fill,
    Finish,
    Follow,
    Hit,
    Join,
    Lead,
    Leave,
    Miss,
    Pieces,
    write,
)

SEAT = (Join, Fill, Leave, Finish)
SeatQuestion = Join | Fill | Leave | Finish


class Seats:
    """Answers what a peer says of its seats, and remembers which of them it has yet to hear of."""

    def __init__(self, number: int, holdings: Holdings) -> None:
        self._number = number
        self._holdings = holdings
        self._flights = holdings.flights
        self._taken: set[int] = set()
        self._behind: set[int] = set()

    def answer(self, question: SeatQuestion, out: bytearray) -> None:
        """Raises `ValueError` for a number that is in use."""
        seat = (self._number, question.id)
        if isinstance(question, Join):
            self._join(question, seat, out)
        elif isinstance(question, Fill):
            self._flights.fill(seat, question.piece)
        elif isinstance(question, Leave):
            self._flights.leave(seat)
        else:
            self._taken.discard(question.id)
            self._flights.finish(seat, question.ending)

    def deliver(self, ask_ids: Iterable[int], out: bytearray, *, is_paused: bool) -> bool:
        """Write what these seats, and those before them, have to hear. Was there anything?"""
        self._behind.update(ask_ids)
        if is_paused or not self._behind:
            return False
        behind, self._behind = self._behind, set()
        for ask_id in behind:
            pieces, ending = self._flights.pull((self._number, ask_id))
            if pieces:
                write(Pieces(ask_id, pieces), out)
            if ending is not None:
                self._taken.discard(ask_id)
                write(Closed(ask_id, ending), out)
        return True

    def lost(self) -> None:
        """The connection is gone."""
        self._flights.lost((self._number, ask_id) for ask_id in self._taken)
        self._taken.clear()
        self._behind.clear()

    def _join(self, join: Join, seat: Seat, out: bytearray) -> None:
        packed = self._holdings.get(join.key) if join.may_read else None
        if packed is not None:
            write(Hit(join.id, packed), out)
            return
        role = self._flights.join(join.key, seat)
        if role == "alone":
            write(Miss(join.id), out)
            return
        self._taken.add(join.id)
        is_leader = role == "lead"
        write(Lead(join.id, self._flights.lease_s) if is_leader else Follow(join.id), out)
