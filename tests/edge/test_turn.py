"""One feeder a node, of the version that was started last."""

import asyncio
from pathlib import Path

from serve.edge.turn import Turn
from tests.cache.world import until


class Feeders:
    """Feeders of one node, by name: who has had its turn, and when it ended."""

    def __init__(self, folder: Path, group: asyncio.TaskGroup) -> None:
        self.folder = folder
        self.group = group
        self.seen: list[str] = []
        self.turns: dict[str, Turn] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    def start(self, name: str, version: str, since: float, give_way_s: float = 60) -> None:
        turn = self.turns[name] = Turn(self.folder, version, give_way_s)
        turn.asked(since)
        self.tasks[name] = self.group.create_task(self._feed(name, turn))

    async def _feed(self, name: str, turn: Turn) -> None:
        while True:
            async with turn:
                self.seen.append(name)
                await turn.over()
                self.seen.append(f"{name} ends")

    async def saw(self, *names: str) -> None:
        await until(lambda: self.seen[-len(names) :] == list(names))

    def stop(self) -> None:
        for task in self.tasks.values():
            task.cancel()


async def test_a_later_version_takes_over_and_is_left_alone(tmp_path: Path) -> None:
    async with asyncio.TaskGroup() as group:
        feeders = Feeders(tmp_path / "edge", group)
        feeders.start("old", "1", since=10)
        await asyncio.sleep(0)
        feeders.folder.mkdir()
        await feeders.saw("old")
        feeders.start("new", "2", since=20)
        await feeders.saw("old", "old ends", "new")
        feeders.turns["old"].asked(10)  # its ingress drains, and asks again
        feeders.start("older", "0", since=5)
        feeders.start("newest", "3", since=30)
        await feeders.saw("old", "old ends", "new", "new ends", "newest")
        feeders.stop()


async def test_a_version_that_is_deployed_again_takes_over_again(tmp_path: Path) -> None:
    async with asyncio.TaskGroup() as group:
        feeders = Feeders(tmp_path, group)
        feeders.start("one", "1", since=10)
        await feeders.saw("one")
        feeders.start("two", "2", since=20)
        await feeders.saw("one ends", "two")
        feeders.turns["one"].asked(30)
        await feeders.saw("two ends", "one")
        feeders.stop()


async def test_another_life_of_a_feeder_takes_over_whoever_asked_for_it(tmp_path: Path) -> None:
    async with asyncio.TaskGroup() as group:
        feeders = Feeders(tmp_path, group)
        feeders.start("first", "1", since=20)
        await feeders.saw("first")
        feeders.start("second", "1", since=10)
        await feeders.saw("first ends", "second")
        feeders.stop()


async def test_an_earlier_version_feeds_again_when_the_later_one_has_long_gone(
    tmp_path: Path,
) -> None:
    async with asyncio.TaskGroup() as group:
        feeders = Feeders(tmp_path, group)
        feeders.start("old", "1", since=10, give_way_s=0.1)
        await feeders.saw("old")
        feeders.start("new", "2", since=20)
        await feeders.saw("old ends", "new")
        feeders.tasks["new"].cancel()
        await feeders.saw("new", "old")
        feeders.stop()


async def test_a_claim_that_makes_no_sense_is_none(tmp_path: Path) -> None:
    (tmp_path / "feeder").write_text("of another version of Rayllama")
    async with asyncio.TaskGroup() as group:
        feeders = Feeders(tmp_path, group)
        feeders.start("one", "1", since=10)
        await feeders.saw("one")
        feeders.stop()
