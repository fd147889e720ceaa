"""Where snapshots are: a directory, or any fsspec URL.

A file appears under its name only when it is whole: it is written under another one beside it, and
renamed. Elsewhere than on this machine it is made here and then sent, since most object stores
keep what was written before a failure as if it were all.

Everything here blocks, and is called from a thread. Whatever a foreign file system raises ends
here and becomes an `OSError`.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from shutil import copyfileobj
from typing import Any, BinaryIO, Protocol, cast

import fsspec

from serve.errors import ConfigError

PART = ".part"
"""What the name of a file ends in while it is not whole."""


class Opened(Protocol):
    """A file that is being written."""

    def open(self) -> BinaryIO:
        """What to write to."""
        ...

    def commit(self) -> None:
        """It is whole: give it its name."""
        ...

    def close(self) -> None:
        """Throw away what was not committed."""
        ...


class Place(Protocol):
    """A folder of files. Every method blocks and raises `OSError`."""

    def names(self) -> list[str]:
        """The files in it; none if there is no such folder."""
        ...

    def read(self, name: str) -> BinaryIO:
        """A file to read and to seek in."""
        ...

    def write(self, name: str) -> Opened:
        """A file to write. Nothing happens before it is opened."""
        ...

    def remove(self, name: str) -> None:
        """Delete a file, if it is there."""
        ...


def place(url: str) -> Place:
    """The folder at a path or URL. Raises `ConfigError` if nothing here can open it."""
    if "://" not in url:
        return _Folder(Path(url))
    try:
        system, path = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:  # fsspec says which package to install
        protocol = url.partition("://")[0]
        raise ConfigError(
            f"cache.snapshot.url: no file system for {protocol}://: {error}"
        ) from None
    if isinstance(system, fsspec.implementations.local.LocalFileSystem):
        return _Folder(Path(path))
    return _Remote(system, path.rstrip("/"))


def split(url: str) -> tuple[Place, str]:
    """The folder and the name of a file. Raises `ConfigError`."""
    folder, slash, name = url.rpartition("/")
    if not name:
        raise ConfigError(f"{url!r} names a folder; name a file in it")
    if slash and not folder:
        folder = "/"
    return place(folder or "."), name


class _Folder:
    """A directory of this machine, or one that is mounted."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def names(self) -> list[str]:
        with suppress(FileNotFoundError):
            return [path.name for path in self._folder.iterdir() if path.is_file()]
        return []

    def read(self, name: str) -> BinaryIO:
        return (self._folder / name).open("rb")

    def write(self, name: str) -> Opened:
        return _LocalFile(self._folder / name)

    def remove(self, name: str) -> None:
        (self._folder / name).unlink(missing_ok=True)


class _LocalFile:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._part = path.with_name(path.name + PART)
        self._file: BinaryIO | None = None

    def open(self) -> BinaryIO:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # Answers are nobody else's business, whatever the umask says.
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        self._file = open(os.open(self._part, flags, 0o600), "wb")  # noqa: SIM115, PTH123
        return self._file

    def commit(self) -> None:
        file = cast("BinaryIO", self._file)
        file.flush()
        os.fsync(file.fileno())
        self._part.replace(self._path)
        folder = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # the new name, too, outlives a loss of power
        finally:
            os.close(folder)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._part.unlink(missing_ok=True)


class _Remote:
    """A folder in another file system."""

    def __init__(self, system: Any, folder: str) -> None:
        self._system = system
        self._folder = folder

    def names(self) -> list[str]:
        with _translated():
            try:
                self._system.invalidate_cache()
                found = self._system.ls(self._folder, detail=True)
            except FileNotFoundError:
                return []
            return [one["name"].rpartition("/")[2] for one in found if one["type"] == "file"]

    def read(self, name: str) -> BinaryIO:
        """A copy: one transfer for two readings, both of the same bytes."""
        copy = cast("BinaryIO", tempfile.TemporaryFile())  # noqa: SIM115  (the caller closes it)
        with _translated():
            try:
                with self._system.open(f"{self._folder}/{name}", "rb") as file:
                    copyfileobj(file, copy, 1 << 20)
            except BaseException:
                copy.close()
                raise
        copy.seek(0)
        return copy

    def write(self, name: str) -> Opened:
        return _RemoteFile(self._system, f"{self._folder}/{name}")

    def remove(self, name: str) -> None:
        with _translated(), suppress(FileNotFoundError):
            self._system.rm_file(f"{self._folder}/{name}")


class _RemoteFile:
    def __init__(self, system: Any, path: str) -> None:
        self._system = system
        self._path = path
        self._file: Any = None

    def open(self) -> BinaryIO:
        self._file = tempfile.NamedTemporaryFile(prefix="rayllama-", suffix=PART)  # noqa: SIM115
        return cast("BinaryIO", self._file)

    def commit(self) -> None:
        self._file.flush()
        with _translated():
            self._system.makedirs(self._path.rpartition("/")[0], exist_ok=True)
            self._system.put_file(self._file.name, self._path + PART)
            self._system.mv(self._path + PART, self._path)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


@contextmanager
def _translated() -> Iterator[None]:
    """Foreign errors as ours. Their texts stay away: some hold the URL with its secrets."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        raise OSError(f"the file system failed: {type(error).__name__}") from error
