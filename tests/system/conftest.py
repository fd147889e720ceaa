"""The whole of Rayllama as shipped: `rayllama up configs/local.yaml`, on its own ports."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import psutil
import pytest

PROJECT = Path(__file__).parents[2]
URL = "http://127.0.0.1:8000"


def titled(processes: Iterable[psutil.Process], title: str) -> list[psutil.Process]:
    """Those that are still there and whose command line has `title` in it."""
    found = []
    for process in processes:
        with suppress(psutil.Error):
            if title in " ".join(process.cmdline()):
                found.append(process)
    return found


class System:
    """A running `rayllama up` and its processes."""

    def __init__(self, config: str = "configs/local.yaml") -> None:
        command = [str(Path(sys.executable).with_name("rayllama")), "up", config]
        self.process = subprocess.Popen(
            command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.output: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.output.append(line)

    @property
    def said(self) -> str:
        return "".join(self.output)

    def wait_until_ready(self, within_s: float = 240) -> None:
        wait_for(lambda: "curl" in self.said or self.process.poll() is not None, within_s)
        assert self.process.poll() is None, self.said

    def family(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def named(self, title: str) -> list[psutil.Process]:
        """Its processes whose command line has `title` in it."""
        return titled(psutil.process_iter(), title)

    def stop(self, number: int = signal.SIGINT) -> int:
        os.kill(self.process.pid, number)
        status = self.process.wait(60)
        self._reader.join(10)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return status


def wait_for(condition: Callable[[], object], within_s: float = 60) -> None:
    """Poll a condition. Raises `TimeoutError`."""
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.05)


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    running = System()
    try:
        running.wait_until_ready()
        yield running
    finally:
        running.stop()


@pytest.fixture
def http() -> Iterator[httpx.Client]:
    with httpx.Client(base_url=URL, timeout=120) as client:
        yield client
