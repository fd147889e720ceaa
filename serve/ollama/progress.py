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

    def __init__(self, model: str) -> None:
        self.row = Row(short(model), "starting")
        self._blobs: dict[str, tuple[int, int]] = {}
        self._logged = 0.0
        self._stall: asyncio.Timeout | None = None
        self._limit_s = 0.0

    def see(self, status: str, digest: str = "", total: int = 0, completed: int = 0) -> None:
        """Something was heard."""
        if digest:
            self._blobs[digest] = (total, completed)
        totals, done = zip(*self._blobs.values(), strict=True) if self._blobs else ((), ())
        row = Row(self.row.name, status, sum(totals), sum(done))
        is_new = status != self.row.status and not digest
        self.watch(row, is_new=is_new)

    def watch(self, row: Row, *, is_new: bool = False) -> None:
        """Something was seen, of our own fetch or of another replica's."""
        if row != self.row:
            self.row = row
            self._reschedule()
            self._log(is_new=is_new)

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

    async def keep(self, file: Path) -> None:
        """Writes what changes there, for the others of this store, until it is cancelled."""
        kept, unfinished = None, file.with_suffix(".new")
        while True:
            if kept != self.row:
                kept = self.row
                with contextlib.suppress(OSError):
                    await asyncio.to_thread(_replace, unfinished, file, msgspec.json.encode(kept))
            await asyncio.sleep(_FILE_S)


@contextlib.asynccontextmanager
async def turn(depot: Depot, progress: Progress, model: str) -> AsyncGenerator[None, None]:
    """One replica of a store fetches a model at a time; the others look on.

    A store that we may not write to has no turns: its engine says what is wrong.
    """
    lock = await asyncio.to_thread(_opened, depot, model)
    if lock is None:
        yield
        return
    file = _place(depot, model).with_suffix(".json")
    with lock:
        while not _taken(lock):
            seen = await asyncio.to_thread(_read, file)
            if seen is not None:
                status = f"another replica: {seen.status}"
                progress.watch(Row(seen.name, status, seen.total, seen.completed))
            await asyncio.sleep(_POLL_S)
        keeping = asyncio.get_running_loop().create_task(progress.keep(file))
        try:
            yield
        finally:
            keeping.cancel()
            await asyncio.wait([keeping])
            await asyncio.to_thread(_remove, file)


def _replace(unfinished: Path, file: Path, data: bytes) -> None:
    unfinished.write_bytes(data)
    unfinished.replace(file)


def _remove(file: Path) -> None:
    with contextlib.suppress(OSError):
        file.unlink(missing_ok=True)


def _read(file: Path) -> Row | None:
    """What the one who fetches it says last."""
    try:
        return _row.decode(file.read_bytes())
    except (OSError, msgspec.DecodeError):
        return None


def rows_of(depot: Depot | None, ours: Iterable[Row]) -> Sequence[Row]:
    """All that is fetched into a store now, by us or by another replica."""
    found = {row.name: row for row in ours}
    if depot is not None:
        for path in depot.ours.glob("fetching-*.json"):
            row = _read(path)
            if row is not None and row.name not in found and _is_held(path.with_suffix(".lock")):
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
    try:
        with path.open("ab") as lock:
            return not _taken(lock)
    except OSError:
        return False
