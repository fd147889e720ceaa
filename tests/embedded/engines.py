"""Embedded engines as real processes, for tests."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any

import httpx

from serve.embedded.routes import STATUS_PATH

_START_S = 60


class EngineProcess:
    """`python -m serve.embedded` on a free port; its output goes to a file.

    All engines of a test run share a store (beside `folder`), so that one of them converts.
    """

    def __init__(
        self, folder: Path, *, config: Mapping[str, Any] | None = None, **variables: str
    ) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = folder / f"engine-{self.port}.log"
        settings = {"threads": 1, "store": str(folder.parent / "store")} | dict(config or {})
        environment = {k: v for k, v in os.environ.items() if not k.startswith("OLLAMA_")}
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                [
                    sys.executable, "-m", "serve.embedded",
                    "--port", str(self.port), "--config", json.dumps(settings),
                ],
                env=environment | variables,
                stdout=output,
                stderr=output,
            )  # fmt: skip

    def wait_until_ready(self) -> None:
        """Until `/api/version` answers; fails with the log where the process ends instead."""

        def ready() -> bool:
            assert self.process.poll() is None, self.log.read_text()
            with contextlib.suppress(httpx.TransportError):
                return self.get("/api/version").status_code == 200
            return False

        until(ready, _START_S)

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.url + path, trust_env=False, timeout=60)

    def post(self, path: str, body: Mapping[str, Any]) -> httpx.Response:
        return httpx.post(self.url + path, json=body, trust_env=False, timeout=120)

    def status(self) -> dict[str, Any]:
        """The scheduler's counters and the loaded models."""
        status: dict[str, Any] = self.get(STATUS_PATH).json()
        return status

    def counters(self) -> dict[str, int]:
        counters: dict[str, int] = self.status()["counters"]
        return counters

    def runner(self, name: str) -> dict[str, Any]:
        """The status of one loaded model."""
        return next(one for one in self.status()["loaded"] if f"/{name}" in one["name"])

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


@contextlib.contextmanager
def running(
    folder: Path, *, config: Mapping[str, Any] | None = None, **variables: str
) -> Generator[EngineProcess, None, None]:
    """An engine that is ready, and gone afterwards."""
    engine = EngineProcess(folder, config=config, **variables)
    try:
        engine.wait_until_ready()
        yield engine
    finally:
        engine.process.kill()
        engine.process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def until(condition: Callable[[], object], deadline_s: float = 30) -> None:
    """Waits for a condition to become true; fails at the deadline."""
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, f"still not: {condition}"
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    """Is there such a process that isn't a zombie?"""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
