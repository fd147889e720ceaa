"""A process whose parent is gone ends itself, even when its event loop is stuck."""

import os
import signal
import subprocess
import sys

from serve.ollama.parent import ParentWatch
from tests.ollama.engines import is_alive, until

CHILD = (
    "from serve.ollama.parent import ParentWatch\n"
    "import asyncio, os, time\n"
    "ParentWatch(0.02).start()\n"
    "print(os.getpid(), flush=True)\n"
    "async def stuck(): time.sleep(1000)\n"
    "asyncio.run(stuck())"
)
PARENT = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {CHILD!r}])"


async def test_it_ends_with_its_parent() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert is_alive(child)
        parent.kill()
        await until(lambda: not is_alive(child))


async def test_a_watch_that_was_stopped_ends_nothing() -> None:
    script = CHILD.replace(
        "ParentWatch(0.02).start()", "w = ParentWatch(0.02); w.start(); w.stop()"
    )
    parent_script = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {script!r}])"
    with subprocess.Popen(
        [sys.executable, "-c", parent_script], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.kill()
        parent.wait()
        assert is_alive(child)
        os.kill(child, signal.SIGKILL)
        await until(lambda: not is_alive(child))


def test_a_living_parent_is_left_alone() -> None:
    watch = ParentWatch(0.001)
    watch.start()
    watch.stop()
