"""Settings for the engines that these tests run on, and what they look at from outside."""

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import psutil

from serve.ollama.process import runs
from serve.ollama.reaper import MARK
from serve.ollama.supervisor import Supervisor
from serve.ports import Call, Failed, Frame, Head, Tail
from serve.settings import InferenceSettings, Settings

FAULTY = Path(__file__).with_name("faulty_engine.py")
FAULTY_MODEL = "registry.ollama.ai/library/faulty:latest"
PATIENCE_S = 30.0


def faulty(scratch: Path, fault: str = "", **inference: Any) -> Settings:
    """Settings whose engine is the faulty one; its scratch folder is shared with the test."""
    env = {"FAULT": fault, "FAULT_SCRATCH": str(scratch)}
    given: dict[str, Any] = {
        "engine": "ollama",
        "ollama_binary": str(FAULTY),
        "num_gpus": 0,
        "slots": 2,
        "start_timeout_s": PATIENCE_S,
        "stop_timeout_s": PATIENCE_S,
    }
    return Settings(inference=InferenceSettings(env=env, **(given | inference)))


def spelled_out(settings: Settings) -> str:
    """Settings as JSON for another process, with what is masked in every other dump."""
    data = settings.model_dump(mode="json")
    env = settings.inference.env
    data["inference"]["env"] = {name: value.get_secret_value() for name, value in env.items()}
    return json.dumps(data)


def generate(fault: str = "", *, deadline_s: float | None = None, **fields: Any) -> Call:
    """A call of `/api/generate` that the faulty engine answers as told."""
    body = {"model": "faulty", "prompt": "hi", "fault": fault} | fields
    return Call(
        "POST",
        "/api/generate",
        json.dumps(body).encode(),
        request_id="r1",
        model=FAULTY_MODEL,
        deadline_s=deadline_s,
    )


async def until(claim: Callable[[], bool], within_s: float = PATIENCE_S) -> None:
    """Wait for a condition, and fail when it doesn't come."""
    end = time.monotonic() + within_s
    while not claim():
        assert time.monotonic() < end, "it did not come true"
        await asyncio.sleep(0.02)


async def collect(
    frames: AsyncGenerator[Frame, None],
) -> tuple[Head, bytes, Tail | Failed | None]:
    """A whole answer: its head, its bytes, how it ended."""
    head = await anext(frames)
    assert isinstance(head, Head)
    body = b""
    tail: Tail | Failed | None = None
    async for frame in frames:
        assert tail is None, "nothing follows a tail"
        if isinstance(frame, Tail | Failed):
            tail = frame
        else:
            assert isinstance(frame, bytes)
            assert frame
            body += frame
    return head, body, tail


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that is only not buried yet doesn't."""
    try:
        return runs(psutil.Process(pid))
    except psutil.NoSuchProcess:
        return False


def marked(replica: str) -> list[int]:
    """The pids of all processes that were started for a replica."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK, "").endswith(f".{replica}") and is_alive(process.pid):
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


async def family_of(replica: str, size: int = 3) -> list[int]:
    """The pids of keeper, engine and runner, once they are all there."""
    await until(lambda: len(marked(replica)) == size)
    return marked(replica)


async def kill_engine(supervisor: Supervisor) -> int:
    """SIGKILL to the engine; its pid, once the kernel has closed all that it had open."""
    engine = supervisor.engine_pid
    assert engine is not None
    os.kill(engine, signal.SIGKILL)
    await until(lambda: not is_alive(engine))
    return engine
