"""Replicas under a real Ray: their GPUs, their end, and their raylet's."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import psutil
import pytest

from serve.ollama.reaper import MARK
from tests.ollama.engines import FAULTY, PATIENCE_S, faulty, is_alive, spelled_out, until

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.ray


class Driver:
    """The process that owns the cluster."""

    def __init__(self, scratch: Path) -> None:
        settings = faulty(scratch, "runner", num_gpus=1)
        self._process = subprocess.Popen(
            [
                sys.executable,
                str(Path(__file__).with_name("ray_driver.py")),
                spelled_out(settings),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "RAY_AUTH_MODE": "disabled",
                "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
                "RAY_USAGE_STATS_ENABLED": "0",
                "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
                "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "0",
            },
        )

    def tell(self, command: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(command + "\n")
        self._process.stdin.flush()
        said: dict[str, Any] = json.loads(self._process.stdout.readline())
        return said

    def end(self) -> None:
        """The driver and whatever of its cluster is left."""
        family = psutil.Process(self._process.pid).children(recursive=True)
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        for process in family:
            if process.is_running():
                process.kill()


def engines(scratch: Path) -> list[psutil.Process]:
    """The engines that work in this scratch folder (not their keepers or runners)."""
    found = []
    for process in psutil.process_iter():
        try:
            environment = process.environ()
            is_ours = MARK in environment and environment.get("FAULT_SCRATCH") == str(scratch)
            if is_ours and str(FAULTY) in process.cmdline()[1:2]:
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def families(scratch: Path) -> list[int]:
    """The pids of the engines, their keepers and their runners."""
    found = []
    for engine in engines(scratch):
        found += [engine.pid, engine.ppid(), *(p.pid for p in engine.children(recursive=True))]
    return found


@pytest.fixture
def driver(tmp_path: Path) -> Generator[Driver, None, None]:
    driver = Driver(tmp_path)
    try:
        yield driver
    finally:
        driver.end()


async def test_gpus_graceful_end_and_the_raylets_death(driver: Driver, tmp_path: Path) -> None:
    # Two replicas have a GPU each, a third waits for one.
    said = driver.tell("deploy 3")
    assert said == {"states": {"RUNNING": 2, "STARTING": 1}, "gpus_left": 0}
    gpus = [engine.environ()["CUDA_VISIBLE_DEVICES"] for engine in engines(tmp_path)]
    assert sorted(gpus) == ["0", "1"]

    # Frames cross the handle; a caller that leaves stops the engine.
    assert driver.tell("stream") == {"first": "Head", "last": "Tail", "is_tail": True}
    driver.tell("leave")
    await until((tmp_path / "client_left").exists)

    # Serve's graceful stop ends the engines and what they started.
    before = families(tmp_path)
    assert len(before) == 6
    driver.tell("delete")
    await until(lambda: not any(is_alive(pid) for pid in before))

    # kill -9 of a replica: Serve starts another, nothing of the old one stays.
    driver.tell("deploy 1")
    before = families(tmp_path)
    assert len(before) == 3
    replica = psutil.Process(engines(tmp_path)[0].ppid()).parent()
    assert replica is not None
    raylet = replica.parent()
    assert raylet is not None
    assert raylet.name() == "raylet"
    os.kill(replica.pid, signal.SIGKILL)
    await until(lambda: not any(is_alive(pid) for pid in before))
    await until(lambda: len(families(tmp_path)) == 3, within_s=2 * PATIENCE_S)

    # kill -9 of the raylet: no engine stays.
    before = families(tmp_path)
    os.kill(raylet.pid, signal.SIGKILL)
    await until(lambda: not any(is_alive(pid) for pid in before))
