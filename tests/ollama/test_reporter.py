"""Reports go out at once, again and again, and survive whatever fails."""

import asyncio
import logging

import pytest

from serve.errors import CacheUnavailable, EngineNotReady
from serve.ollama.reporter import CatalogueReporter, Send
from serve.ports import Report
from tests.ollama.engines import until

REPORT = Report("r", "1", "fp", {})


class FaultyShard:
    """Hears reports, or fails as told."""

    def __init__(self) -> None:
        self.heard = 0
        self.connects = 0
        self.fails: Exception | None = None
        self.fails_to_connect: Exception | None = None

    async def connect(self) -> Send:
        self.connects += 1
        if self.fails_to_connect is not None:
            raise self.fails_to_connect
        return self.send

    async def send(self, report: Report) -> None:
        assert report is REPORT
        if self.fails is not None:
            raise self.fails
        self.heard += 1


async def report() -> Report:
    return REPORT


async def test_at_once_and_when_poked_and_periodically() -> None:
    shard = FaultyShard()
    reporter = CatalogueReporter(report, shard.connect, period_s=1000)
    reporter.start()
    await until(lambda: shard.heard == 1)
    reporter.poke()
    await until(lambda: shard.heard == 2)
    await reporter.stop()
    often = CatalogueReporter(report, shard.connect, period_s=0.01)
    often.start()
    await until(lambda: shard.heard >= 5)
    await often.stop()
    assert shard.connects == 2


@pytest.mark.parametrize("error", [CacheUnavailable("away"), RuntimeError("from Ray")])
async def test_failures_are_survived_and_told_once(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    shard = FaultyShard()
    shard.fails_to_connect = error
    reporter = CatalogueReporter(report, shard.connect, period_s=0.01)
    with caplog.at_level(logging.WARNING, "serve.ollama.reporter"):
        reporter.start()
        await until(lambda: shard.connects >= 3)
        shard.fails_to_connect, shard.fails = None, error
        await until(lambda: shard.connects >= 4)
        shard.fails = None
        await until(lambda: shard.heard >= 2)
    await reporter.stop()
    assert [record.levelname for record in caplog.records] == ["WARNING"]


async def test_an_engine_that_is_down_is_not_reported() -> None:
    is_down = asyncio.Event()
    asked = 0

    async def down_then_up() -> Report:
        nonlocal asked
        asked += 1
        if not is_down.is_set():
            return REPORT
        raise EngineNotReady("restarting")

    shard = FaultyShard()
    reporter = CatalogueReporter(down_then_up, shard.connect, period_s=0.01)
    reporter.start()
    await until(lambda: shard.heard >= 1)
    is_down.set()
    seen = asked
    await until(lambda: asked > seen + 3)
    heard = shard.heard
    is_down.clear()
    await until(lambda: shard.heard > heard)
    assert shard.connects == 1
    await reporter.stop()


async def test_one_that_was_never_started_can_be_stopped() -> None:
    await CatalogueReporter(report, FaultyShard().connect, period_s=1).stop()
