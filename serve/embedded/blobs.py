"""Blobs: files that are named by their sha256, as Ollama lays them out below a store.

A digest that a client or a registry names becomes a path only here, and only once it has the form
of one. A blob has its name when all of it is there and its sha256 is right; never before.
"""

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import BinaryIO

from serve.embedded.store import Store
from serve.errors import BadRequest, EngineError
from serve.wire.native import quoted

_DIGEST = re.compile(r"sha256[:-]([0-9a-fA-F]{64})")
_UNREADABLE = "open {}: no such file or directory"


def digest_of(text: str) -> str:
    """`sha256:` and 64 small hex digits. Raises `BadRequest` for what is no digest."""
    found = _DIGEST.fullmatch(text)
    if found is None:
        raise BadRequest("invalid digest format")
    return f"sha256:{found[1].lower()}"


class Writing:
    """A blob that is being written; its name is decided by what is in it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hash = hashlib.sha256()

    def write(self, data: bytes) -> None:
        """Adds to it. Raises `OSError`."""
        self._hash.update(data)
        self._file.write(data)

    @property
    def digest(self) -> str:
        """Of what has been written."""
        return f"sha256:{self._hash.hexdigest()}"


class Blobs:
    """The blobs of a store. Its methods block, and raise `OSError` as files do."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.folder = store.root / "models" / "blobs"

    def path(self, digest: str) -> Path:
        """Where a blob is, or would be. Raises `BadRequest` for what is no digest."""
        return self.folder / digest_of(digest).replace(":", "-")

    def has(self, digest: str) -> bool:
        """Is it there? Raises `BadRequest` as `path` does."""
        return self.path(digest).exists()

    def existing(self, digest: str) -> Path:
        """Where it is. Raises `EngineError` in Go's words if it isn't there."""
        path = self.path(digest)
        if not path.exists():
            raise EngineError(_UNREADABLE.format(path))
        return path

    def put(self, data: bytes) -> tuple[str, bool]:
        """The digest of what is a blob from now on, and whether it wasn't one before."""
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        if self.has(digest):
            return digest, False
        with self.writing(digest) as writing:
            writing.write(data)
        return digest, True

    @contextlib.contextmanager
    def writing(self, wanted: str) -> Generator[Writing, None, None]:
        """A file to fill, which then is the blob `wanted`.

        Raises `BadRequest` with Ollama's text if it turns out to be another; then it's gone.
        """
        path = self.path(wanted)
        self.folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=self.folder, prefix=".unfinished-")
        unfinished = Path(name)
        try:
            with os.fdopen(handle, "wb") as file:
                writing = Writing(file)
                yield writing
            if writing.digest != digest_of(wanted):
                raise BadRequest(
                    f"digest mismatch, expected {quoted(wanted)}, got {quoted(writing.digest)}"
                )
            self._name(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)

    def adopt(self, file: Path) -> str:
        """Makes a file from elsewhere a blob, without another copy where the disk allows it."""
        hexadecimal = self._store.sha256(file)
        path = self.path(f"sha256:{hexadecimal}")
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self.folder, prefix=".unfinished-") as folder:
                unfinished = Path(folder) / "blob"
                try:
                    os.link(file, unfinished)
                except OSError:  # another disk, or somebody else's file
                    shutil.copyfile(file, unfinished)
                self._name(unfinished, path)
        return f"sha256:{hexadecimal}"

    def settle(self, partial: Path, digest: str) -> str:
        """Gives a download that is complete its name, if its digest is right; the digest it has.

        What is wrong is gone: nothing good would come of going on from there.
        """
        with partial.open("rb") as file:
            found = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
        if found == digest_of(digest):
            self._name(partial, self.path(digest))
        else:
            partial.unlink(missing_ok=True)
        return found

    @contextlib.contextmanager
    def claimed(self, digest: str) -> Generator[BinaryIO | None, None, None]:
        """The unfinished download of a blob, for one process and one task at a time.

        None while another has it. Whoever dies leaves what is there to the next one.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.partial(digest)
        with partial.open("a+b") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                mine = os.path.samestat(os.fstat(file.fileno()), partial.stat())
            except OSError:  # it is locked, or has got its name meanwhile
                mine = False
            yield file if mine else None

    def partial(self, digest: str) -> Path:
        """Where the unfinished download of a blob is."""
        path = self.path(digest)
        return path.with_name(f"{path.name}-partial")

    def _name(self, unfinished: Path, path: Path) -> None:
        """Lets a complete file take its name, and remembers its sha256, which was just seen."""
        with self._store.locked():
            unfinished.replace(path)
        self._store.remember(path, path.name.removeprefix("sha256-"))
