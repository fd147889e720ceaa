"""Whose turn it is to feed a node's proxy: one feeder's, of the version that was started last.

During a rollout two versions of the application run side by side, each with a feeder on each node.
The later one claims the proxy in a file; the earlier one sees it, falls silent and lets go of the
lock, which the kernel takes from one that is killed. So who holds the lock knows that no other
feeds.

A version is as late as the last ingress of it that asks: one that was there before and is deployed
again claims again. An earlier one claims nothing; it feeds again only if nobody has for a while.
"""

import asyncio
import contextlib
import fcntl
import secrets
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import IO, Self

import msgspec
from msgspec import Struct

GIVE_WAY_S = 30.0
_LOOK_S = 0.2


class Claim(Struct, frozen=True):
    """Who has the proxy. `since`: when its ingress began, in seconds since the epoch."""

    since: float = 0.0
    version: str = ""
    token: str = ""


async def _until(holds: Callable[[], bool]) -> None:
    while not holds():  # noqa: ASYNC110 - files tell nobody
        await asyncio.sleep(_LOOK_S)


class Turn:
    """`async with turn:`, in which the lock is held; `over` returns when it has to be let go.

    Again and again, each time as long as it takes. Waits for the folder, which `rayllama-haproxy`
    makes. `give_way_s`: how long an earlier version leaves the proxy to a later one that is gone.
    """

    def __init__(self, folder: Path, version: str = "", give_way_s: float = GIVE_WAY_S) -> None:
        self._folder = folder
        self._version = version
        self._give_way_s = give_way_s
        self._since = 0.0
        self._has_lost = False
        self._under = Claim()
        self._file: IO[bytes] | None = None

    def asked(self, since: float) -> None:
        """An ingress of this version that began then wants it."""
        self._since = max(self._since, since)

    async def __aenter__(self) -> Self:
        await _until(self._folder.is_dir)
        while True:
            waited_for = monotonic() + self._give_way_s
            await _until(lambda: self._may_claim() or monotonic() > waited_for)  # noqa: B023
            if self._may_claim():
                self._path.write_bytes(msgspec.json.encode(self._own_claim()))
            self._under = self._claim()
            self._file = (self._folder / "feeder.lock").open("wb")
            try:
                await _until(lambda: self._is_locked() or self._is_over())
            except BaseException:
                self._file.close()
                raise
            if not self._is_over():
                return self
            self._file.close()
            self._has_lost = True

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._file is not None:
            self._file.close()

    async def over(self) -> None:
        """Returns when another has claimed the proxy."""
        await _until(self._is_over)
        self._has_lost = True

    @property
    def _path(self) -> Path:
        return self._folder / "feeder"

    def _claim(self) -> Claim:
        with contextlib.suppress(OSError, msgspec.MsgspecError):
            return msgspec.json.decode(self._path.read_bytes(), type=Claim)
        return Claim()

    def _own_claim(self) -> Claim:
        """No earlier than what it takes over: else that would take it back."""
        since = max(self._since, self._claim().since)
        return Claim(since, self._version, secrets.token_hex(8))

    def _may_claim(self) -> bool:
        """Is who has it earlier, or, for one that has just come, another life of this one?"""
        claim = self._claim()
        if self._has_lost:
            return claim.since < self._since
        return claim.since <= self._since or claim.version == self._version

    def _is_over(self) -> bool:
        return self._claim() != self._under

    def _is_locked(self) -> bool:
        if self._file is None:
            return False
        with contextlib.suppress(OSError):
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        return False
