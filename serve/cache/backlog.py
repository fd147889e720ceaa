"""What a flight has brought so far, for those who come later or read slowly.

Pieces are kept in order, at most `max_bytes` of them beside the newest. Over that the oldest go and
the backlog is `is_cut`: nobody can begin to read it any more, and who had not read what went has
lost it. Each reader keeps its own place, the number of the piece that it reads next.
"""

from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Backlog(Generic[T]):
    """Pieces of a stream, and how many bytes they are."""

    __slots__ = ("_first", "_pieces", "held_bytes", "max_bytes")

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.held_bytes = 0
        self._first = 0
        self._pieces: deque[tuple[T, int]] = deque()

    @property
    def is_cut(self) -> bool:
        """Has its beginning gone?"""
        return self._first > 0

    @property
    def end(self) -> int:
        """The place of who has read everything."""
        return self._first + len(self._pieces)

    def add(self, piece: T, size: int) -> None:
        """One more piece, of that many bytes."""
        self._pieces.append((piece, size))
        self.held_bytes += size
        while self.held_bytes > self.max_bytes and len(self._pieces) > 1:
            self._drop()

    def since(self, place: int) -> list[T] | None:
        """The pieces from that place on; None if some of them have gone."""
        if place < self._first:
            return None
        return [self._pieces[at][0] for at in range(place - self.end, 0)]  # near the right end

    def clear(self) -> None:
        """Let everything go."""
        while self._pieces:
            self._drop()

    def _drop(self) -> None:
        _, size = self._pieces.popleft()
        self.held_bytes -= size
        self._first += 1
