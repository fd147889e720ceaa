"""What a running `rayllama up` writes down, so that others find it: one small file a port.

`$XDG_STATE_HOME/rayllama/up-<port>.json`, with the log of what it started beside it.
"""

import contextlib
from pathlib import Path
from typing import Self

import msgspec
import psutil

from serve.settings import environment


class Record(msgspec.Struct, frozen=True):
    """One run. `born` is when its `rayllama up` started, since pids come again."""

    run: str
    pid: int
    born: float
    url: str
    config: str
    log: str

    @classmethod
    def read(cls, port: int) -> Self | None:
        """The last run on this port; None where there was none."""
        try:
            return msgspec.json.decode(_path(port).read_bytes(), type=cls)
        except (OSError, msgspec.DecodeError):
            return None

    def write(self, port: int) -> None:
        """Write it down."""
        fresh = _beside(port, ".new")
        fresh.write_bytes(msgspec.json.encode(self))
        fresh.replace(_path(port))

    def owner(self) -> psutil.Process | None:
        """The `rayllama up` of this run while it lives."""
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(self.pid)
            if process.create_time() == self.born and process.status() != psutil.STATUS_ZOMBIE:
                return process
        return None


def forget(port: int) -> None:
    """Remove what is written about a run on this port."""
    _path(port).unlink(missing_ok=True)


def log_path(port: int) -> Path:
    """Where what a run on this port starts may write its log. The last run's is kept beside it."""
    path = _beside(port, ".log")
    if path.exists():
        path.replace(path.with_suffix(".log.1"))
    return path


def copy_path(port: int) -> Path:
    """Where the amended copy of a config goes."""
    return _beside(port, ".yaml")


def recorded_ports() -> list[int]:
    """Ports that runs are written down for."""
    names = (path.stem.removeprefix("up-") for path in _folder().glob("up-*.json"))
    return sorted(int(name) for name in names if name.isdigit())


def _folder() -> Path:
    return environment().state_home / "rayllama"


def _beside(port: int, suffix: str) -> Path:
    path = _path(port).with_suffix(suffix)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _path(port: int) -> Path:
    return _folder() / f"up-{port}.json"
