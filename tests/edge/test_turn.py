"""One feeder a node, and the last one that came."""

import asyncio
from pathlib import Path

import pytest

from serve.edge.turn import Superseded, Turn
from tests.cache.world import until


async def test_a_later_one_takes_over(tmp_path: Path) -> None:
    folder = tmp_path / "edge"
    began: list[str] = []

    async def feed(name: str) -> None:
        async with Turn(folder) as turn:
            began.append(name)
            await turn.over()
            began.append(f"{name} ends")

    async with asyncio.TaskGroup() as group:
        first = group.create_task(feed("first"))
        await asyncio.sleep(0)
        folder.mkdir()
        await until(lambda: began == ["first"])
        second = group.create_task(feed("second"))
        await until(lambda: began == ["first", "first ends", "second"])
        assert first.done()
        second.cancel()


async def test_of_two_that_wait_the_later_one_gets_it(tmp_path: Path) -> None:
    async with Turn(tmp_path) as turn:
        waiting = asyncio.get_running_loop().create_task(Turn(tmp_path).__aenter__())
        await until(lambda: not turn.is_ours)
        (tmp_path / "feeder").write_text("a third")
        with pytest.raises(Superseded):
            await waiting
