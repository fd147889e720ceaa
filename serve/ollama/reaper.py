"""Engines that outlived their replica: recognised by a mark in their environment, and ended.

Every engine is started with `RAYLLAMA_ENGINE` in its environment, which its model runners inherit.
The mark names the machine (and the pid namespace, since pids mean nothing across containers), the
replica's process (pid and start, since pids come again), and the replica. An engine whose replica
is gone is ended by whoever starts next on that machine, and its directory is removed.
"""

import logging
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
from msgspec import Struct

from serve.ollama.process import kill_all, runs

MARK = "RAYLLAMA_ENGINE"
_DIRECTORY = "rayllama-engine-"
_ROUNDS = 3  # one may fork while we look; one that can't be killed must not hold us for ever
_log = logging.getLogger(__name__)


class Mark(Struct, frozen=True):
    """Whose an engine is. `born` is when the owner started, in whatever unit the system counts."""

    machine: str
    owner: int
    born: str
    replica: str

    @classmethod
    def of_this_process(cls, replica: str) -> "Mark":
        """The mark for engines of `replica`, which lives in this process."""
        pid = psutil.Process().pid
        return cls(_machine(), pid, _born(pid), replica)

    @classmethod
    def parse(cls, text: str) -> "Mark | None":
        """The mark in an environment, or None where it isn't one."""
        match text.split("."):
            case [machine, owner, born, replica] if owner.isdigit():
                return cls(machine, int(owner), born, replica)
        return None

    def __str__(self) -> str:
        return f"{self.machine}.{self.owner}.{self.born}.{self.replica}"

    def is_stale(self) -> bool:
        """Whether it was made on this machine by a process that is gone."""
        return self.machine == _machine() and _born(self.owner) != self.born

    def directory(self) -> Path:
        """A new directory for the engine's HOME and log, its owner's alone."""
        return Path(tempfile.mkdtemp(prefix=f"{_DIRECTORY}{self}."))


def reap_stale() -> int:
    """End what dead replicas left on this machine, and remove their directories. How many ended.

    Blocks for as long as it takes to look at every process: call it in a thread.
    """
    ended = _end(Mark.is_stale)
    for path in Path(tempfile.gettempdir()).glob(f"{_DIRECTORY}*"):
        mark = Mark.parse(path.name.removeprefix(_DIRECTORY).rpartition(".")[0])
        if mark is not None and mark.is_stale():
            shutil.rmtree(path, ignore_errors=True)
    return ended


def reap(mark: Mark) -> int:
    """End whatever carries this very mark: what is left of an engine that is already gone."""
    return _end(mark.__eq__)


def _end(is_meant: Callable[[Mark], bool]) -> int:
    ended = 0
    for _ in range(_ROUNDS):
        found = list(_marked(is_meant))
        if not found:
            break
        _log.warning("ending %d leftover engine processes: %s", len(found), [p.pid for p in found])
        kill_all(found)
        ended += len(found)
    return ended


def _marked(is_meant: Callable[[Mark], bool]) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        try:
            mark = Mark.parse(process.environ().get(MARK, ""))
            if mark is not None and is_meant(mark) and runs(process):
                yield process
        except (psutil.Error, OSError):  # gone meanwhile, or another user's
            continue


def _machine() -> str:
    """This boot of this machine and, where there are any, this pid namespace."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot[:8]}-{Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        return f"{platform.node().split('.')[0]}-{int(psutil.boot_time())}"


def _born(pid: int) -> str:
    """When a process started; "" where there is none.

    In ticks since boot where they can be read: a time of day moves when the clock is set.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except ProcessLookupError:
        return ""
    except OSError:
        return _born_by_clock(pid)
    return "" if stat[0] == b"Z" else stat[19].decode()


def _born_by_clock(pid: int) -> str:
    try:
        return str(int(psutil.Process(pid).create_time()))
    except psutil.NoSuchProcess:
        return ""
