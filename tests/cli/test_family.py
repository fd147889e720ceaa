"""Processes of a run are found by their mark, and orphans of Serve by what they are."""

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil
import pytest

from serve.cli import family, preflight, record
from serve.errors import ConfigError

# A parent that starts a child in another session, tells its pid, and ends: the child is an orphan.
_ORPHAN_MAKER = """
import subprocess, sys
sleeper = [sys.executable, "-c", "import time; time.sleep(600)"]
quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
child = subprocess.Popen(sleeper, **quiet, start_new_session=True)
print(child.pid)
"""
_STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", flush=True)
time.sleep(600)
"""


def until(claim: Callable[[], bool], within_s: float = 10) -> None:
    deadline = time.monotonic() + within_s
    while not claim():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@contextmanager
def ended(pid: int) -> Iterator[None]:
    """Whatever the test does, this process is gone after it."""
    try:
        yield
    finally:
        if psutil.pid_exists(pid):
            os.kill(pid, signal.SIGKILL)


def orphan(run: str) -> int:
    """A process of the run whose parent is gone."""
    env = os.environ | {family.MARK: run}
    done = subprocess.run(
        [sys.executable, "-c", _ORPHAN_MAKER], capture_output=True, env=env, check=True, timeout=60
    )
    return int(done.stdout)


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_an_orphan_is_found_by_its_mark_and_ended() -> None:
    run = uuid.uuid4().hex
    pid = orphan(run)
    with ended(pid):
        assert [process.pid for process in family.marked(run)] == [pid]
        assert family.marked("another run") == []
        assert family.end(family.marked(run), patience_s=5) == 1
        until(lambda: not is_alive(pid))


def test_who_ignores_sigterm_is_killed() -> None:
    command = [sys.executable, "-c", _STUBBORN]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child, ended(child.pid):
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        family.end([psutil.Process(child.pid)], patience_s=0.2)
        until(lambda: not is_alive(child.pid))


@pytest.fixture
def port(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> int:
    """A port of no run, in a state folder of the test's own."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return 8123


def written(port: int, pid: int, born: float, run: str) -> None:
    url = f"http://127.0.0.1:{port}"
    record.Record(run=run, pid=pid, born=born, url=url, config="c.yaml", log="x").write(port)


def test_a_run_that_lives_is_left_alone(port: int) -> None:
    here = psutil.Process()
    written(port, here.pid, here.create_time(), "run")
    assert record.recorded_ports() == [port]
    with pytest.raises(ConfigError, match=rf"already runs at http.*:{port} \(pid {here.pid}\)"):
        preflight.clear_run(port)


def test_what_a_dead_run_left_is_ended(port: int) -> None:
    run = uuid.uuid4().hex
    pid = orphan(run)
    with ended(pid):
        # This pid has an owner now, but one that started at another time.
        written(port, os.getpid(), 1.0, run)
        done = preflight.clear_run(port)
        assert "ended 1 processes that an earlier run left behind" in done
        until(lambda: not is_alive(pid))
    assert record.Record.read(port) is None
    assert record.recorded_ports() == []


def test_the_last_log_is_kept(port: int) -> None:
    record.log_path(port).write_text("first")
    second = record.log_path(port)
    assert not second.exists()
    assert second.with_suffix(".log.1").read_text() == "first"


def test_a_broken_record_is_no_record(port: int) -> None:
    written(port, 1, 1.0, "run")
    record.log_path(port).with_suffix(".json").write_text("{")
    assert record.Record.read(port) is None
