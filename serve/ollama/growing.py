"""Blobs on their way into a store: files that grow piece by piece until their sha256 is right.

Uploads and fetches both are such. The sha256 of what is there is kept in memory as it grows, so the
end needs no second reading; a file that somebody else has written to meanwhile, or that a dead
replica has left, is read again.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

from serve.ollama.depot import PIECE, Depot, Mark, digest_of
from serve.wire.native import quoted

Outcome = tuple[int, str]
"""A status of HTTP, and what is wrong."""

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_READ = 1 << 20


class Growing:
    """One file. Its methods block, raise `OSError`, and may be called from several threads.

    Whoever writes to it holds its lock: another replica of this node may be doing the same.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._turn = threading.Lock()
        self._hash = hashlib.sha256()
        self._mark: Mark | None = None

    def size(self) -> int:
        """How much there is."""
        try:
            return self.path.lstat().st_size
        except FileNotFoundError:
            return 0

    def remove(self) -> None:
        """Begin anew."""
        with self._turn:
            self.path.unlink(missing_ok=True)

    def append(self, at: int, data: bytes) -> bool:
        """Adds to it; False, and nothing is done, if `at` isn't its end."""
        with self._turn, self._open(os.O_CREAT) as file:
            if file is None or os.fstat(file).st_size != at:
                return False
            self._catch_up(file)
            _write(file, at, data)
            self._hash.update(data)
            self._mark = _mark(file)
        return True

    def settle(self, depot: Depot, digest: str) -> str:
        """Makes it the blob of that digest, or removes it if it is another; the digest it has.

        "" if there is nothing any more: somebody else has done the same.
        """
        with self._turn, self._open() as file:
            if file is None:
                return ""
            self._catch_up(file)
            found = f"sha256:{self._hash.hexdigest()}"
            if found == digest:
                os.fsync(file)
                depot.settle(self.path, digest)
            else:
                self.path.unlink(missing_ok=True)
        return found

    @contextlib.contextmanager
    def _open(self, create: int = 0) -> Iterator[int | None]:
        """The file, locked; None if it isn't there any more once it is our turn."""
        try:
            file = os.open(self.path, os.O_RDWR | create | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        except FileNotFoundError:
            yield None
            return
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            try:
                is_ours = os.path.samestat(os.fstat(file), self.path.lstat())
            except FileNotFoundError:
                is_ours = False
            yield file if is_ours else None
        finally:
            os.close(file)

    def _catch_up(self, file: int) -> None:
        """Reads what is there, unless it is what we wrote last."""
        if self._mark == _mark(file):
            return
        self._hash, at = hashlib.sha256(), 0
        while data := os.pread(file, _READ, at):
            self._hash.update(data)
            at += len(data)
        self._mark = _mark(file)


class Uploads:
    """Uploads in acknowledged pieces. `put` blocks."""

    def __init__(self, depot: Depot) -> None:
        self._depot = depot
        self._growing: dict[str, Growing] = {}

    def put(self, digest: str, at: int, data: bytes, *, is_last: bool) -> Outcome:
        """One piece: 202 and more is wanted, 201 now it is a blob, 200 it was one before.

        413 too large a piece; 409 the upload is elsewhere, which the text says; 400 the whole has
        another digest, in Ollama's words, and is gone; 507 the disk is full, and it is gone.
        Raises `BadRequest` for what is no digest, `OSError` for other faults of the disk.
        """
        name = digest_of(digest)
        if self._depot.blob(name) is not None:
            return 200, ""
        if len(data) > PIECE:
            return 413, f"a piece of more than {PIECE} bytes"
        growing = self._at(name, at)
        try:
            if not growing.append(at, data):
                return 409, f"the upload is at {growing.size()}"
            return self._end(name, growing) if is_last else (202, "")
        except OSError as error:
            if error.errno not in FULL:
                raise
            growing.remove()
            return 507, f"the disk of the model store is full: {error.strerror}"

    def where(self, digest: str) -> int:
        """How much of an upload is there."""
        return Growing(self._depot.unfinished("upload", digest)).size()

    def _at(self, name: str, at: int) -> Growing:
        growing = self._growing.setdefault(name, Growing(self._depot.unfinished("upload", name)))
        if at == 0:
            self._depot.sweep()
            growing.remove()
        return growing

    def _end(self, name: str, growing: Growing) -> Outcome:
        found = growing.settle(self._depot, name)
        self._growing.pop(name, None)
        if found == name:
            return 201, ""
        if self._depot.blob(name) is not None:
            return 200, ""
        return 400, f"digest mismatch, expected {quoted(name)}, got {quoted(found)}"


def _write(file: int, at: int, data: bytes) -> None:
    while data:
        written = os.pwrite(file, data, at)
        at, data = at + written, data[written:]


def _mark(file: int) -> Mark:
    stat = os.fstat(file)
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns
