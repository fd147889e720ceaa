"""What an engine shows of its models' templates, asked of a script that stands for it."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from serve.errors import EngineDied, EngineRefused
from serve.ollama.dated import DatedModels, utc_offset_s
from serve.ports import Model
from serve.settings import InferenceSettings
from tests.ollama.engines import until

PLAIN, DATED = "{{ .System }}{{ .Prompt }}", "{{ currentDate }}"
JULY = datetime(2026, 7, 1, tzinfo=UTC).timestamp()


class FaultyShows:
    """An engine's models by name, and what becomes of those who ask for one."""

    def __init__(self, **templates: str) -> None:
        self.templates = templates
        self.models: dict[str, Model] = {name: Model(f"d-{name}") for name in templates}
        self.asked: list[str] = []
        self.fault: Exception | None = None
        self.open = asyncio.Event()
        self.open.set()
        self.dated = DatedModels(self.show, self.fresh)

    async def show(self, name: str) -> tuple[str, str]:
        self.asked.append(name)
        await self.open.wait()
        if self.fault is not None:
            raise self.fault
        return self.templates[name], ""

    async def fresh(self) -> Mapping[str, Model]:
        return self.models

    async def told(self) -> dict[str, bool]:
        marked = await self.dated.marked(self.models)
        assert {name: m.digest for name, m in marked.items()} == {
            name: m.digest for name, m in self.models.items()
        }
        return {name: model.is_dated for name, model in marked.items()}


@asynccontextmanager
async def engine(**templates: str) -> AsyncGenerator[FaultyShows]:
    shows = FaultyShows(**templates)
    try:
        yield shows
    finally:
        await shows.dated.aclose()


async def test_each_digest_is_asked_for_once() -> None:
    async with engine(a=PLAIN, b=DATED) as shows:
        assert await shows.told() == {"a": False, "b": True}
        shows.models["copy"] = shows.models["a"]
        assert await shows.told() == {"a": False, "b": True, "copy": False}
        assert shows.asked == ["a", "b"]
        shows.models["a"] = Model("another")
        shows.templates["a"] = DATED
        assert await shows.told() == {"a": True, "b": True, "copy": False}
        assert shows.asked == ["a", "b", "a"]


async def test_what_is_not_known_yet_counts_as_dated() -> None:
    async with engine(a=PLAIN) as shows:
        shows.open.clear()
        assert await shows.told() == {"a": True}
        assert await shows.told() == {"a": True}
        shows.open.set()
        await until(lambda: bool(shows.dated._known))
        assert await shows.told() == {"a": False}
        assert shows.asked == ["a"]


async def test_what_is_refused_is_dated_and_not_asked_for_again() -> None:
    async with engine(a=PLAIN) as shows:
        shows.fault = EngineRefused(404, "not found")
        assert await shows.told() == {"a": True}
        assert await shows.told() == {"a": True}
        assert shows.asked == ["a"]


async def test_a_dead_engine_is_asked_again() -> None:
    async with engine(a=PLAIN) as shows:
        shows.fault = EngineDied("gone")
        assert await shows.told() == {"a": True}
        shows.fault = None
        assert await shows.told() == {"a": False}


async def test_a_tag_that_moved_meanwhile_is_not_believed() -> None:
    async with engine(a=PLAIN) as shows:
        listed = dict(shows.models)
        shows.models["a"] = Model("moved")
        marked = await shows.dated.marked(listed)
        assert marked["a"].is_dated


def test_the_zone_is_the_engines() -> None:
    def offset_s(engine: str, zone: str) -> int:
        attached = {"url": "http://h:1"} if engine == "attach" else {}
        given = {"engine": engine, "env": {"TZ": zone}, **attached}
        return utc_offset_s(InferenceSettings.model_validate(given), JULY)

    assert offset_s("ollama", "Europe/Berlin") == 7200
    assert offset_s("ollama", ":Asia/Kolkata") == 19800
    assert offset_s("ollama", "") == offset_s("ollama", "No/Where") == 0
    here = utc_offset_s(InferenceSettings(), JULY)
    assert offset_s("attach", "Europe/Berlin") == here
    local = datetime.fromtimestamp(JULY, UTC).astimezone().utcoffset()
    assert local is not None
    assert here == local.total_seconds()
