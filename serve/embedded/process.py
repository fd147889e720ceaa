"""Starting and ending the process of a runner, and what it says while it lives."""

import asyncio
import contextlib
import json
import logging
import os
import secrets
import sys
from collections import deque
from dataclasses import asdict, dataclass
from typing import Any

from serve.embedded.llama import Llama
from serve.errors import EngineDied, EngineError

_log = logging.getLogger(__name__)
_LAST_LINES = 20
_PING_S = 10


@dataclass(frozen=True, slots=True)
class Launch:
    """What a runner is started with: a change of any of it needs another process.

    `context` is tokens a slot; `template` is a Jinja chat template; `gpu_layers` -1 is llama.cpp's
    own choice, `threads` of at least one.
    """

    path: str
    template: str
    embedding: bool
    slots: int
    context: int
    batch: int
    shift: bool
    threads: int = 0
    gpu_layers: int = -1
    main_gpu: int | None = None
    mmap: bool | None = None
    kv_type: str = ""
    flash_attention: bool | None = None


class RunnerProcess:
    """A runner that has loaded its model."""

    def __init__(
        self, process: asyncio.subprocess.Process, llama: Llama, errors: "_Errors"
    ) -> None:
        self._process = process
        self.llama = llama
        self.pid = process.pid
        self._errors = errors

    @classmethod
    async def start(cls, launch: Launch) -> "RunnerProcess":
        """Loads the model in a new process. Raises `EngineDied` with the runner's last words.

        Must run on the main thread: the kernel kills a child when the thread that made it ends.
        """
        key = secrets.token_hex(16)
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "serve.embedded", "runner", str(os.getpid()),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )  # fmt: skip
        except OSError as error:
            raise EngineDied(f"error starting llama-server: {error}") from None
        errors = _Errors(process)
        try:
            address = await _handshake(process, {**asdict(launch), "key": key})
        except BaseException:
            await _kill(process)
            raise
        if not address:
            await process.wait()
            raise EngineDied(f"llama-server process has terminated: {await errors.last()}")
        return cls(process, Llama(int(address.rpartition(":")[2]), key), errors)

    @property
    def is_dead(self) -> bool:
        """Has it ended, as far as can be told now? asyncio learns of it a little later."""
        if self.llama.broken or self._process.returncode is not None:
            return True
        try:
            ended = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return True
        return ended is not None

    async def answers(self) -> bool:
        """Is it there, and does its HTTP answer within reason?"""
        try:
            async with asyncio.timeout(_PING_S):
                await self.llama.ask("/health")
        except (EngineError, TimeoutError):
            self.llama.broken = True
        return not self.is_dead

    async def wait(self) -> int:
        """Until the process has ended; its exit status."""
        status = await self._process.wait()
        await self._errors.last()
        return status

    async def kill(self) -> None:
        """SIGKILL, as Ollama does it: a model that only reads needs no farewell."""
        await _kill(self._process)
        await self._errors.last()


async def _handshake(process: asyncio.subprocess.Process, spec: dict[str, Any]) -> str:
    """Sends the specification, waits for the model; its address, or "" if the process ended."""
    if process.stdin is None or process.stdout is None:
        raise EngineDied("no pipe to the runner")
    process.stdin.write(json.dumps(spec).encode() + b"\n")
    with contextlib.suppress(ConnectionError):
        await process.stdin.drain()
    while line := await process.stdout.readline():
        with contextlib.suppress(ValueError, KeyError, TypeError):
            return str(json.loads(line)["address"])
    return ""


async def _kill(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    await process.wait()


class _Errors:
    """Passes a runner's stderr to the log, and keeps its last lines."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._lines: deque[str] = deque(maxlen=_LAST_LINES)
        self._task = asyncio.get_running_loop().create_task(self._read(process))

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        if process.stderr is None:
            return
        while not process.stderr.at_eof():
            try:
                line = await process.stderr.readline()
            except ValueError:  # longer than asyncio's buffer; what it was is lost
                continue
            if text := line.decode("utf-8", "replace").rstrip():
                self._lines.append(text)
                _log.warning("runner %d: %s", process.pid, text)

    async def last(self) -> str:
        """What it said last, once it has said all."""
        await self._task
        return self._lines[-1] if self._lines else "no reason given"
