"""The keeper as a real process over real commands."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil

from serve.ollama import guard
from tests.ollama.engines import is_alive, until

SLEEP = [sys.executable, "-c", "import time; time.sleep(1000)"]
WITH_RUNNER = [
    sys.executable,
    "-c",
    "import subprocess, sys, time\n"
    "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(1000)'])\n"
    "print('up', flush=True)\n"
    "time.sleep(1000)",
]
TELL_SIGNALS = [
    sys.executable,
    "-c",
    "import signal\n"
    "print(sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())))\n"
    "print([signal.getsignal(s).name for s in (signal.SIGTERM, signal.SIGCHLD)])",
]


def keep(command: list[str]) -> "subprocess.Popen[str]":

    return subprocess.Popen(
        [sys.executable, "-I", "-S", str(Path(guard.__file__)), str(os.getpid()), *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_the_status_is_the_commands_own() -> None:
    for code in (0, 7):
        with keep([sys.executable, "-c", f"raise SystemExit({code})"]) as keeper:
            assert keeper.wait() == code


def test_a_command_that_cannot_run_says_so() -> None:
    with keep(["/nonexistent/ollama"]) as keeper:
        assert keeper.communicate()[0] == "/nonexistent/ollama: No such file or directory\n"
        assert keeper.returncode == 127


def test_the_engine_finds_signals_as_usual() -> None:
    old = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        with keep(TELL_SIGNALS) as keeper:
            assert keeper.communicate()[0] == "[]\n['SIG_DFL', 'SIG_DFL']\n"
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, old)


def test_sigterm_is_for_the_engine_and_what_it_leaves_is_killed() -> None:
    with keep(WITH_RUNNER) as keeper:
        assert keeper.stdout is not None
        assert keeper.stdout.readline() == "up\n"
        family = [p.pid for p in psutil.Process(keeper.pid).children(recursive=True)]
        assert len(family) == 2
        keeper.terminate()
        assert keeper.wait() == 128 + signal.SIGTERM
        assert not any(is_alive(pid) for pid in family)


def test_a_killed_engines_runner_is_killed_too() -> None:
    with keep(WITH_RUNNER) as keeper:
        assert keeper.stdout is not None
        assert keeper.stdout.readline() == "up\n"
        engine, runner = psutil.Process(keeper.pid).children(recursive=True)
        engine.kill()
        assert keeper.wait() == 128 + signal.SIGKILL
        assert not is_alive(runner.pid)


def test_a_keeper_whose_owner_is_already_gone_ends_the_engine_at_once() -> None:
    with subprocess.Popen(
        [sys.executable, "-I", "-S", str(Path(guard.__file__)), "1", *SLEEP]
    ) as keeper:
        assert keeper.wait() == 128 + signal.SIGKILL


async def test_the_owners_kill_9_ends_the_whole_family() -> None:
    script = (
        "import os, subprocess, sys, time\n"
        f"command = [sys.executable, '-I', '-S', {guard.__file__!r}, str(os.getpid())]\n"
        f"subprocess.Popen([*command, *{WITH_RUNNER!r}])\n"
        "time.sleep(1000)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "up\n"
        family = [p.pid for p in psutil.Process(owner.pid).children(recursive=True)]
        assert len(family) == 3
        owner.kill()
        owner.wait()
        await until(lambda: not any(is_alive(pid) for pid in family))
