"""The keeper: a small process between a replica and its engine, so that none outlives the other.

Started by `serve.ollama.process` as a script in isolated mode (`python -I -S guard.py OWNER_PID
COMMAND...`), so it imports the standard library alone and is up in milliseconds.

Why a process of its own. Ollama's model runner is the engine's child, and a SIGKILL to the engine
orphans it (with its VRAM and port). A parent-death signal reaches one generation only, is lost by
whoever doesn't set it, and fires when the *thread* that forked dies. The keeper has one thread,
is the subreaper of everything below it, and so always finds the whole family:

    replica ── keeper (subreaper; SIGUSR1 when the replica dies) ── engine (SIGKILL when the keeper
               dies) ── runners

- The replica dies, however: the keeper kills the family and ends.
- The engine ends, however: the keeper kills what it left and ends with the same status.
- SIGTERM to the keeper is passed to the engine alone, which stops its runners itself.
- The keeper is killed: the engine is killed by the kernel; what the engine leaves behind is found
  by its mark in the environment (`serve.ollama.reaper`).

All stay in the replica's session and process group, which Ray cleans after a worker's death.
"""

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_OWNER_DIED = signal.SIGUSR1
# What this process, or Python, treats in its own way, and the engine shall find as usual.
_OURS = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGPIPE, _OWNER_DIED)
_LOOK_S = 1.0  # where the kernel knows no parent-death signal (a Mac), the keeper looks itself
_NOT_STARTED = 127  # what a shell says when a command can't be run


def _prctl(option: int, value: int) -> None:
    """Linux's prctl(2); elsewhere nothing."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def _parents() -> dict[int, int]:
    """Of every process its parent, as far as they can be read."""
    if not Path("/proc/self/stat").exists():
        listed = subprocess.run(["ps", "-axo", "pid=,ppid="], capture_output=True, check=False)  # noqa: S607
        rows = (line.split() for line in listed.stdout.splitlines())
        return {int(pid): int(parent) for pid, parent in rows}
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                # The second field is a name in parentheses that may hold anything.
                after_name = (entry / "stat").read_bytes().rpartition(b")")[2].split()
                found[int(entry.name)] = int(after_name[1])
    return found


def _family() -> list[int]:
    """All descendants of this process, parents first: a killed parent forks no more."""
    parents, level = _parents(), {os.getpid()}
    found: list[int] = []
    while level:
        level = {pid for pid, parent in parents.items() if parent in level}
        found.extend(level)
    return found


def _reap(engine: int) -> int | None:
    """Bury the dead. The engine's exit status in a shell's form if it is among them."""
    status = None
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, waited = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            if pid == engine:
                code = os.waitstatus_to_exitcode(waited)
                status = code if code >= 0 else 128 - code
    return status


def _kill_family() -> None:
    """SIGKILL to all below, again until nobody is left, since one may be forking just now."""
    while victims := _family():
        for pid in victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(-1, 0)


def _become_engine(keeper: int, command: list[str]) -> None:
    """In the forked child: the engine from here on."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != keeper:  # it died between the fork and the line above
        os._exit(_NOT_STARTED)
    signal.set_wakeup_fd(-1)
    for number in _OURS:
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvp(command[0], command)  # noqa: S606 - a list from our own settings, no shell
    except OSError as error:
        os.write(2, f"{command[0]}: {error.strerror}\n".encode())
    os._exit(_NOT_STARTED)


def keep(owner: int, command: list[str]) -> int:
    """Run `command` until it ends or `owner`, the parent of this process, is gone.

    Returns the exit status in a shell's form.
    """
    readable, writable = os.pipe()
    os.set_blocking(writable, False)
    signal.set_wakeup_fd(writable)
    for number in (signal.SIGTERM, signal.SIGCHLD, _OWNER_DIED):
        signal.signal(number, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the group; the replica decides
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # what the forking thread blocked was its own
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    _prctl(_PR_SET_PDEATHSIG, _OWNER_DIED)
    keeper = os.getpid()
    engine = os.fork()
    if engine == 0:
        _become_engine(keeper, command)
    while os.getppid() == owner:
        if (status := _reap(engine)) is not None:
            _kill_family()
            return status
        woken, _, _ = select.select([readable], [], [], _LOOK_S)
        if woken and signal.SIGTERM in os.read(readable, 512):
            os.kill(engine, signal.SIGTERM)
    _kill_family()
    return 128 + signal.SIGKILL


if __name__ == "__main__":
    sys.exit(keep(int(sys.argv[1]), sys.argv[2:]))
