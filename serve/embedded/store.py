"""What the engine keeps on disk: models, and the sha256 of weights it has hashed before.

One folder, shared by all engines of a user: writers take the lock and rename complete files into
place, so a reader never sees half a file and needs no lock.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Generator
from pathlib import Path

from serve.errors import ConfigError

Mark = tuple[int, int, int, int]
"""What tells a file from the one that took its place: device, inode, size, time of change in ns."""


def mark_of(path: Path) -> Mark:
    """The file as it is now. Raises `OSError` if it isn't there."""
    stat = path.stat()
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns


class Store:
    """The folder `root`; made when it is first written to."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def check(self) -> None:
        """Raises `ConfigError` if the folder can't be made or nothing can be written there."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.root):
                pass
        except OSError as error:
            raise ConfigError(
                f"embedded.store: {self.root}: {error.strerror}; let it name a folder that the "
                "engine may write to"
            ) from None

    @contextlib.contextmanager
    def locked(self) -> Generator[None, None, None]:
        """Holds the store's lock; other processes wait. Not re-entrant."""
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def made_once(self, name: str, make: Callable[[Path], None]) -> Path:
        """The file `name`; where it is missing, `make` writes it, in one process of all."""
        path = self.root / name
        if not path.exists():
            with self.locked():
                if not path.exists():
                    with self.replacing(path) as unfinished:
                        make(unfinished)
        return path

    def sha256(self, path: Path) -> str:
        """The hex digest of a file, remembered until it changes or is replaced.

        Raises `OSError` if the file can't be read. A store that can't be written is no error: then
        the file is hashed again next time.
        """
        key, mark = str(path.resolve()), mark_of(path)
        known = self._hashes().get(key)
        if known is not None and known[:-1] == [*mark]:
            return str(known[-1])
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        with contextlib.suppress(OSError):
            if mark_of(path) == mark:
                self._remember(key, [*mark, digest])
        return digest

    def remember(self, path: Path, digest: str) -> None:
        """Spares the next who asks for the hex digest of this file the reading."""
        with contextlib.suppress(OSError):
            self._remember(str(path.resolve()), [*mark_of(path), digest])

    def _hashes(self) -> dict[str, list[int | str]]:
        try:
            known = json.loads((self.root / "sha256.json").read_text())
        except (OSError, ValueError):
            return {}
        return known if isinstance(known, dict) else {}

    def _remember(self, key: str, entry: list[int | str]) -> None:
        with self.locked():
            hashes = {k: v for k, v in self._hashes().items() if Path(k).exists()} | {key: entry}
            with self.replacing(self.root / "sha256.json") as unfinished:
                unfinished.write_text(json.dumps(hashes, indent=1, sort_keys=True))

    @contextlib.contextmanager
    def replacing(self, path: Path) -> Generator[Path, None, None]:
        """A file to write, which takes `path`'s place when all is written, and vanishes if not."""
        handle, name = tempfile.mkstemp(dir=self.root, prefix=".unfinished-", suffix=path.suffix)
        os.close(handle)
        unfinished = Path(name)
        try:
            yield unfinished
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
