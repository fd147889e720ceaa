"""How far the fetching of models is: for the log, for a status like `/api/ps`, and for those who
wait for another replica of this node to finish.

Each fetch keeps a file beside the store's locks, so that every replica on the store can tell of it,
one that is not ready yet and can't be asked included. Files of a dead replica count for nothing:
their lock is free.
"""

import asyncio
import contextlib
import fcntl
import hashlib
import logging
import time
from collections.abc import AsyncGenerator, Iterable, Sequence
from pathlib import Path
from typing import BinaryIO

import msgspec

from serve.errors import EngineNotReady
from serve.ollama.depot import Depot
from serve.wire.names import canonical, short

_LOG_S, _FILE_S, _POLL_S = 5.0, 0.25, 0.1
_MIB = 1 << 20
_log = logging.getLogger(__name__)


class Row(msgspec.Struct, frozen=True):
    """One model that is being fetched; bytes, as far as they are known."""

    name: str
    status: str
    total: int = 0
    completed: int = 0


_row = msgspec.json.Decoder(Row)


class Progress:
    """One model's. What changes tells slowness from a stall."""

    def __init__(self, model: str, depot: Depot | None) -> None:
        self.row = Row(short(model), "starting")
        self._file = None if depot is None else _place(depot, model).with_suffix(".json")
        self._blobs: dict[str, tuple[int, int]] = {}
        self._logged = self._filed = 0.0
        self._stall: asyncio.Timeout | None = None
        self._limit_s = 0.0

    def see(self, status: str, digest: str = "", total: int = 0, completed: int = 0) -> None:
        """Something was heard."""
        if digest:
            self._blobs[digest] = (total, completed)
        totals, done = zip(*self._blobs.values(), strict=True) if self._blobs else ((), ())
        row = Row(self.row.name, status, sum(totals), sum(done))
        is_new = status != self.row.status and not digest
        if self.watch(row, is_new=is_new):
            self._keep()

    def watch(self, row: Row, *, is_new: bool = False) -> bool:
        """Something was seen, of our own fetch or of another replica's; is it news?"""
        if row == self.row:
            return False
        self.row = row
        self._reschedule()
        self._log(is_new=is_new)
        return True

    @contextlib.asynccontextmanager
    async def unless_stalled(self, limit_s: float) -> AsyncGenerator[None, None]:
        """Raises `EngineNotReady` once nothing has changed for so long."""
        self._limit_s = limit_s
        try:
            async with asyncio.timeout(limit_s) as self._stall:
                yield
        except TimeoutError:
            raise EngineNotReady(
                f"nothing more of {self.row.name} came for {limit_s:g} s ({self.row.status}, "
                f"{self.row.completed} of {self.row.total} bytes)"
            ) from None
        finally:
            self._stall = None

    def close(self) -> None:
        """It is over."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.unlink(missing_ok=True)

    def _reschedule(self) -> None:
        if self._stall is not None and not self._stall.expired():
            self._stall.reschedule(asyncio.get_running_loop().time() + self._limit_s)

    def _log(self, *, is_new: bool) -> None:
        now = time.monotonic()
        if is_new or now - self._logged >= _LOG_S:
            self._logged = now
            _log.info(
                "fetching %s: %s, %d of %d MiB",
                self.row.name,
                self.row.status,
                self.row.completed // _MIB,
                self.row.total // _MIB,
            )

    def _keep(self) -> None:
        """For the others of this store."""
        now = time.monotonic()
        if self._file is not None and now - self._filed >= _FILE_S:
            self._filed = now
            with contextlib.suppress(OSError):  # a few bytes, a few times a second
                unfinished = self._file.with_suffix(".new")
                unfinished.write_bytes(msgspec.json.encode(self.row))
                unfinished.replace(self._file)


@contextlib.asynccontextmanager
async def turn(depot: Depot | None, progress: Progress, model: str) -> AsyncGenerator[None, None]:
    """One replica of a store fetches a model at a time; the others look on.

    A store that we may not write to has no turns: its engine says what is wrong.
    """
    if depot is None:
        yield
        return
    lock = await asyncio.to_thread(_opened, depot, model)
    try:
        while lock is not None and not _taken(lock):
            seen = read(depot, model)
            if seen is not None:
                status = f"another replica: {seen.status}"
                progress.watch(Row(seen.name, status, seen.total, seen.completed))
            await asyncio.sleep(_POLL_S)
        yield
    finally:
        if lock is not None:
            lock.close()


def read(depot: Depot, model: str) -> Row | None:
    """What the one who fetches it says last."""
    try:
        return _row.decode(_place(depot, model).with_suffix(".json").read_bytes())
    except (OSError, msgspec.DecodeError):
        return None


def rows_of(depot: Depot | None, ours: Iterable[Row]) -> Sequence[Row]:
    """All that is fetched into a store now, by us or by another replica."""
    found = {row.name: row for row in ours}
    if depot is not None:
        for path in depot.ours.glob("fetching-*.json"):
            with contextlib.suppress(OSError, msgspec.DecodeError):
                row = _row.decode(path.read_bytes())
                if row.name not in found and _is_held(path.with_suffix(".lock")):
                    found[row.name] = row
    return list(found.values())


def _place(depot: Depot, model: str) -> Path:
    key = hashlib.sha256(canonical(model).encode()).hexdigest()[:16]
    return depot.ours / f"fetching-{key}"


def _opened(depot: Depot, model: str) -> BinaryIO | None:
    try:
        depot.ours.mkdir(parents=True, exist_ok=True)
        return _place(depot, model).with_suffix(".lock").open("ab")
    except OSError:
        return None


def _taken(lock: BinaryIO) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_held(path: Path) -> bool:
    with path.open("ab") as lock:
        return not _taken(lock)
