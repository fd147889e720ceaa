"""All processes of one run, found by pid whatever became of their parents.

Ray starts daemons, those start workers, HAProxy and engines; when one in the middle dies, its
children go to whoever is their reaper. Two things keep them together:

- a mark in the environment, which every child inherits: `RAYLLAMA_RUN=<id of the run>`;
- on Linux, `rayllama up` is the subreaper of everything below it, so orphans become its children.

Nothing is ever ended by its name alone. (An HAProxy that a dead Serve left behind carries no mark
when plain `serve run` started it: `serve.edge.orphans`.)
"""

import contextlib
import ctypes
import sys
from collections.abc import Iterable

import psutil

MARK = "RAYLLAMA_RUN"
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans() -> None:
    """Make this process the parent of whatever below it loses its own. Linux; elsewhere nothing."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent(signal_number: int) -> None:
    """In a child, before exec: get this signal when the parent dies. Linux; elsewhere nothing."""
    _prctl(_PR_SET_PDEATHSIG, signal_number)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def below() -> list[psutil.Process]:
    """Every live process below this one."""
    return [child for child in psutil.Process().children(recursive=True) if _is_alive(child)]


def marked(run: str) -> list[psutil.Process]:
    """Every live process that carries the mark of a run."""
    return [process for process in psutil.process_iter() if _mark(process) == run]


def end(processes: Iterable[psutil.Process], *, patience_s: float) -> int:
    """SIGTERM, and after `patience_s` SIGKILL. Returns how many there were."""
    alive = list(processes)
    count = len(alive)
    for process in alive:
        with contextlib.suppress(psutil.Error):
            process.terminate()
    _, alive = psutil.wait_procs(alive, timeout=patience_s)
    for process in alive:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(alive, timeout=patience_s)
    return count


def _mark(process: psutil.Process) -> str:
    try:
        return process.environ().get(MARK, "") if _is_alive(process) else ""
    except (psutil.Error, OSError):  # gone meanwhile, or another user's
        return ""


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
