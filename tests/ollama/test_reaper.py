"""Leftover engines are recognised by their mark, and nobody else is touched."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from serve.ollama.reaper import MARK, Mark, reap, reap_stale
from tests.ollama.engines import is_alive

SLEEP = [sys.executable, "-c", "import time; time.sleep(1000)"]


def start(mark: Mark) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(SLEEP, env={**os.environ, MARK: str(mark)})


def dead_owner() -> int:
    with subprocess.Popen(["true"]) as process:
        process.wait()
        return process.pid


def test_a_mark_survives_the_environment() -> None:
    mark = Mark.of_this_process("abc")
    assert Mark.parse(str(mark)) == mark
    assert not mark.is_stale()
    for text in ("", "a.b", "m.notapid.1.r", "m.1.1.r.more"):
        assert Mark.parse(text) is None


def test_only_engines_of_dead_replicas_on_this_machine_are_ended() -> None:
    ours = Mark.of_this_process("ours")
    gone = Mark(ours.machine, dead_owner(), ours.born, "gone")
    reborn = Mark(ours.machine, os.getpid(), "1", "reborn")  # our pid, of an earlier process
    elsewhere = Mark("other-machine", gone.owner, gone.born, "elsewhere")
    processes = {mark: start(mark) for mark in (ours, gone, reborn, elsewhere)}
    try:
        assert reap_stale() == 2
        alive = {mark.replica for mark, process in processes.items() if process.poll() is None}
        assert alive == {"ours", "elsewhere"}
        assert reap(ours) == 1
        assert not is_alive(processes[ours].pid)
        assert is_alive(processes[elsewhere].pid)
    finally:
        for process in processes.values():
            process.kill()
            process.wait()


def test_directories_of_dead_replicas_go_too() -> None:
    ours = Mark.of_this_process("ours")
    kept = ours.directory()
    left = Mark(ours.machine, dead_owner(), "1", "gone").directory()
    (left / "home").mkdir()
    foreign = Path(tempfile.mkdtemp(prefix="rayllama-engine-who-knows."))
    try:
        reap_stale()
        assert kept.is_dir()
        assert kept.stat().st_mode & 0o077 == 0
        assert foreign.is_dir()
        assert not left.exists()
    finally:
        kept.rmdir()
        foreign.rmdir()
