"""A replica's word to the scheduler: how it stands, whenever that changes or is asked for again."""

from types import TracebackType
from typing import Self

from serve.fleet.link import Kept, Link, Resolve
from serve.fleet.protocol import Answer, Stands
from serve.fleet.replica import Standing


class Telling:
    """Owns the connection. While it lasts, the replica is in the pool; a new scheduler is told."""

    def __init__(self, resolve: Resolve, *, silence_s: float) -> None:
        self._kept = Kept(resolve, self, serves=False, silence_s=silence_s)
        self._link: Link | None = None
        self._standing: Standing | None = None

    async def __aenter__(self) -> Self:
        await self._kept.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._kept.__aexit__(kind, error, trace)

    def tell(self, standing: Standing) -> None:
        """This is how it is now."""
        self._standing = standing
        if self._link is not None:
            self._link.send(Stands(standing))

    def connected(self, link: Link) -> None:
        """The link's: there is a scheduler."""
        self._link = link
        if self._standing is not None:
            link.send(Stands(self._standing))

    def heard(self, answer: Answer) -> None:
        """The link's: nothing that concerns a replica."""

    def lost(self) -> None:
        """The link's: there is none."""
        self._link = None
