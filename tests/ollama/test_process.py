"""Engines as processes: their log, their end."""

import asyncio
import os
import sys
from pathlib import Path

import psutil

from serve.ollama.process import EngineProcess, kill_tree
from tests.ollama.engines import is_alive, until

ENV = {"PATH": os.environ["PATH"]}
FORKS = (
    "import os, time\n"
    "for _ in range(3):\n"
    "    if os.fork() == 0:\n"
    "        os.fork()\n"
    "        time.sleep(1000)\n"
    "open('up', 'w').close()\n"
    "time.sleep(1000)"
)


async def test_a_tree_is_killed_to_the_last_leaf(tmp_path: Path) -> None:
    process = EngineProcess.spawn([sys.executable, "-c", FORKS], ENV, tmp_path)
    await until((tmp_path / "up").exists)
    keeper = psutil.Process(process.keeper_pid)
    await until(lambda: len(keeper.children(recursive=True)) == 7)
    family = [keeper.pid, *(p.pid for p in keeper.children(recursive=True))]
    await process.kill()
    assert not any(is_alive(pid) for pid in family)
    assert process.engine_pid is None
    await process.kill()
    await process.stop(1)


async def test_the_log_holds_both_streams_in_order_and_is_its_owners_alone(
    tmp_path: Path,
) -> None:
    script = "import os; os.write(1, b'one\\n'); os.write(2, b'two\\n'); raise SystemExit(3)"
    process = EngineProcess.spawn([sys.executable, "-c", script], ENV, tmp_path)
    assert await process.wait() == 3
    assert process.log.tail() == "one\ntwo"
    assert process.log.path.stat().st_mode & 0o077 == 0


async def test_waiting_can_be_given_up_without_harm(tmp_path: Path) -> None:
    process = EngineProcess.spawn([sys.executable, "-c", "input()"], ENV, tmp_path)
    waiter = asyncio.ensure_future(process.wait())
    assert await process.wait(0.01) is None
    waiter.cancel()
    await asyncio.wait([waiter])
    await process.stop(10)
    assert process.exited.done()


def test_killing_what_is_gone_is_no_error() -> None:
    kill_tree(2**22 + 1)
