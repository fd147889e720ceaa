"""An engine as a process: started under its keeper, stopped with all that it started.

The engine stays in the replica's session and process group. Its parent is the keeper
(`serve.ollama.guard`), which ends the whole family when the replica dies in whatever way.
"""

import asyncio
import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from os import close, getpid
from pathlib import Path
from typing import Self

import psutil

from serve.ollama.log import EngineLog

_GUARD = Path(__file__).with_name("guard.py")
_GONE_S = 5.0  # how long a SIGKILL may take to show
_LOOK_S = 0.01


class EngineProcess:
    """One engine. `exited` is done, on the loop that started it, with the exit status."""

    def __init__(self, keeper: "subprocess.Popen[bytes]", log: EngineLog) -> None:
        self._keeper = keeper
        self._loop = asyncio.get_running_loop()
        self.log = log
        self.exited: asyncio.Future[int] = self._loop.create_future()
        threading.Thread(target=self._wait, name=f"engine-{keeper.pid}", daemon=True).start()

    @classmethod
    def spawn(cls, command: Sequence[str], environment: Mapping[str, str], directory: Path) -> Self:
        """Start `command` in `directory`, its output in a log there.

        A command that can't be run shows as an engine that exits with 127, its reason in the log.
        Blocks for the milliseconds of a fork: in a thread, a cancelled caller would lose the child.
        """
        log = EngineLog(directory)
        return cls(_popen(command, environment, directory, log), log)

    @property
    def keeper_pid(self) -> int:
        """The pid of the keeper; the engine is its first child."""
        return self._keeper.pid

    @property
    def engine_pid(self) -> int | None:
        """The engine's own pid, or None where it is gone."""
        with contextlib.suppress(psutil.NoSuchProcess):
            children = psutil.Process(self._keeper.pid).children()
            return children[0].pid if children else None
        return None

    async def wait(self, timeout_s: float | None = None) -> int | None:
        """Its exit status, or None if it is still there after that many seconds."""
        # Not awaited itself: cancelling one who waits must not cancel what all wait for.
        done, _ = await asyncio.wait([self.exited], timeout=timeout_s)
        return self.exited.result() if done else None

    async def stop(self, timeout_s: float) -> None:
        """SIGTERM, and after `timeout_s` SIGKILL to the whole family."""
        if not self.exited.done():
            self._keeper.terminate()
            if await self.wait(timeout_s) is None:
                await self.kill()

    async def kill(self) -> None:
        """SIGKILL to the engine and all that it started."""
        if not self.exited.done():
            await asyncio.to_thread(kill_tree, self._keeper.pid)
        await self.wait()

    def _wait(self) -> None:
        """In a thread of its own, so that no event loop has to know of SIGCHLD."""
        status = self._keeper.wait()
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
            self._loop.call_soon_threadsafe(self._note, status)

    def _note(self, status: int) -> None:
        if not self.exited.done():
            self.exited.set_result(status)


def _popen(
    command: Sequence[str], environment: Mapping[str, str], directory: Path, log: EngineLog
) -> "subprocess.Popen[bytes]":
    output = log.open()
    try:
        return subprocess.Popen(  # noqa: S603 - a list from our own settings, no shell
            [sys.executable, "-I", "-S", str(_GUARD), str(getpid()), *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=directory,
            env=environment,
        )
    finally:
        close(output)


def kill_tree(pid: int) -> None:
    """SIGKILL to a process and all its descendants, again until none is left.

    The root goes last: while it lives, the rest can be found under it.
    """
    try:
        root = psutil.Process(pid)
        while family := list(filter(runs, root.children(recursive=True))):
            kill_all(family)
        kill_all([root])
    except psutil.NoSuchProcess:
        return


def kill_all(processes: Sequence[psutil.Process]) -> None:
    """SIGKILL to these, in that order, and wait until they are gone.

    A zombie is gone: burying it is its parent's business, and in a container that may be nobody's.
    """
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    end = time.monotonic() + _GONE_S
    while any(map(runs, processes)) and time.monotonic() < end:
        time.sleep(_LOOK_S)


def runs(process: psutil.Process) -> bool:
    """Whether it still holds anything: a zombie does while it has threads that are not gone yet."""
    try:
        with process.oneshot():
            is_zombie = process.status() == psutil.STATUS_ZOMBIE
            return process.is_running() and not (is_zombie and process.num_threads() <= 1)
    except psutil.NoSuchProcess:
        return False
