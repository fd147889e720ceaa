"""Whose turn it is to feed a node's proxy: one feeder's, and the last one that came.

During a rollout two versions of the application run side by side, each with a feeder on each node.
The later one writes its name into a file; the earlier one sees it, falls silent and lets go of the
lock, which the kernel takes from one that is killed.
"""

import asyncio
import contextlib
import fcntl
import secrets
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import IO, Self

_LOOK_S = 0.2


async def _until(holds: Callable[[], bool]) -> None:
    while not holds():  # noqa: ASYNC110 - files tell nobody
        await asyncio.sleep(_LOOK_S)


class Superseded(Exception):  # noqa: N818  (an event, not a fault)
    """A later feeder has come."""


class Turn:
    """`async with Turn(folder) as turn:`, in which the lock is held. Raises `Superseded`.

    Waits for the folder, which `rayllama-haproxy` makes.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._name = secrets.token_hex(8)
        self._file: IO[bytes] | None = None

    async def __aenter__(self) -> Self:
        await _until(self._folder.is_dir)
        self._claim.write_text(self._name, "utf-8")
        self._file = (self._folder / "feeder.lock").open("wb")
        try:
            await _until(lambda: self._is_locked() or not self.is_ours)
        except BaseException:
            self._file.close()
            raise
        if not self.is_ours:
            self._file.close()
            raise Superseded
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._file is not None:
            self._file.close()

    @property
    def is_ours(self) -> bool:
        """Has no later one come?"""
        with contextlib.suppress(OSError):
            return self._claim.read_text("utf-8") == self._name
        return False

    async def over(self) -> None:
        """Returns when a later one has come."""
        await _until(lambda: not self.is_ours)

    @property
    def _claim(self) -> Path:
        return self._folder / "feeder"

    def _is_locked(self) -> bool:
        if self._file is None:
            return False
        with contextlib.suppress(OSError):
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        return False
