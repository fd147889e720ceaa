"""Files that are replaced while the engine runs: the digest names what answers, always."""

import asyncio
import os
import shutil
import threading
from collections.abc import Generator
from pathlib import Path
from typing import Any

import psutil
import pytest

from serve.embedded.config import EngineConfig
from serve.embedded.engine import Engine
from serve.embedded.scheduler import Replaced, Scheduler
from serve.embedded.shelf import Shelf
from serve.embedded.store import Store
from serve.settings import GgufModel
from serve.wire.names import canonical
from tests.embedded.clients import counting, lines
from tests.embedded.engines import EngineProcess, is_alive, running, until
from tests.embedded.weights import smollm2

pytestmark = pytest.mark.engine

_TEMPLATE = "{% for message in messages %}{{ message.content }}{% endfor %} Go on:"


def _replace(file: Path, by: Path) -> None:
    """As a download does it: another file takes the name, at once."""
    unfinished = file.with_suffix(".unfinished")
    shutil.copyfile(by, unfinished)
    unfinished.replace(file)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model with holes in its weights: of the same size, and it says other things."""
    data = bytearray(smollm2().read_bytes())
    hole = len(data) // 10
    data[-hole:] = bytes(hole)
    path = tmp_path_factory.mktemp("other") / "other.gguf"
    path.write_bytes(data)
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    shutil.copyfile(smollm2(), path)
    return path


@pytest.fixture
def mine(tmp_path: Path, file: Path) -> Generator[EngineProcess, None, None]:
    """An engine with a model `mine` whose file and template may be replaced."""
    template = tmp_path / "template"
    template.write_text(_TEMPLATE)
    model = {"name": "mine", "path": str(file), "template": str(template)}
    with running(tmp_path, config={"models": [model]}) as engine:
        yield engine


def _row(engine: EngineProcess) -> dict[str, Any]:
    models: list[dict[str, Any]] = engine.get("/api/tags").json()["models"]
    return next(row for row in models if row["name"] == "mine:latest")


def _loaded_digest(engine: EngineProcess) -> str:
    (loaded,) = engine.get("/api/ps").json()["models"]
    return str(loaded["digest"])


def _said(engine: EngineProcess, **more: object) -> str:
    answer = engine.post("/api/generate", counting(12, model="mine", stream=False, **more))
    return str(answer.json()["response"])


def test_digest_and_answers_change_together(mine: EngineProcess, file: Path, other: Path) -> None:
    found: dict[str, set[str]] = {}
    for weights in (smollm2(), other, smollm2()):
        _replace(file, weights)
        digest = _row(mine)["digest"]
        for options in ({}, {"num_ctx": 512}):
            found.setdefault(digest, set()).add(_said(mine, options=options))
            assert _loaded_digest(mine) == digest
        _said(mine, keep_alive=0)
        found[digest].add(_said(mine))
    first, second = found.values()
    assert (len(first), len(second)) == (1, 1)
    assert first != second


def test_a_loaded_model_is_not_asked_once_its_file_is_another(
    mine: EngineProcess, file: Path, other: Path
) -> None:
    before = _said(mine)
    runner = mine.runner("mine")["pid"]
    _replace(file, other)
    assert _said(mine) != before, "not even before anybody looked at the tags"
    assert not is_alive(runner)
    assert mine.counters()["reloads"] == 1
    assert mine.counters()["deaths"] == 0


def test_a_file_of_the_same_size_and_time_is_another_all_the_same(
    mine: EngineProcess, file: Path, other: Path
) -> None:
    digest, stat = _row(mine)["digest"], file.stat()
    unfinished = file.with_suffix(".unfinished")
    shutil.copyfile(other, unfinished)
    os.utime(unfinished, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    unfinished.replace(file)
    assert file.stat().st_size == stat.st_size
    assert _row(mine)["digest"] != digest


async def test_what_was_begun_on_the_old_file_ends_and_what_comes_is_of_the_new(
    mine: EngineProcess, file: Path, other: Path
) -> None:
    stream = lines(mine.url, counting(200, model="mine"))
    await anext(stream)
    _replace(file, other)
    asked = asyncio.ensure_future(asyncio.to_thread(_said, mine))
    await asyncio.to_thread(until, lambda: mine.status()["waiting"] == 1)
    said = [line async for line in stream]
    assert said[-1]["eval_count"] == 200
    assert await asked == _said(mine)
    assert _loaded_digest(mine) == _row(mine)["digest"]
    assert mine.counters()["loads"] == 2


def test_a_template_that_changes_is_another_digest_and_another_prompt(
    mine: EngineProcess, tmp_path: Path
) -> None:
    body = {"model": "mine", "prompt": "Hi", "_debug_render_only": True}
    digest = _row(mine)["digest"]
    mine.post("/api/generate", body)
    (tmp_path / "template").write_text("{{ messages[0].content }}, and tools too")
    answer = mine.post("/api/generate", body).json()
    assert answer["_debug_info"]["rendered_template"] == "Hi, and tools too"
    row = _row(mine)
    assert row["digest"] != digest
    assert row["capabilities"] == ["completion", "tools"]
    until(lambda: len(mine.status()["loaded"]) == 1)


def test_a_file_that_is_gone_is_no_model_until_it_is_back(mine: EngineProcess, file: Path) -> None:
    digest = _row(mine)["digest"]
    _said(mine)
    away = file.rename(file.with_suffix(".away"))
    assert mine.post("/api/generate", counting(1, model="mine")).status_code == 404
    assert "mine:latest" not in [row["name"] for row in mine.get("/api/tags").json()["models"]]
    file.write_bytes(b"GGUF, but only the beginning")
    assert mine.post("/api/generate", counting(1, model="mine")).status_code == 404
    away.rename(file)
    assert _row(mine)["digest"] == digest
    assert _said(mine)


def test_a_file_that_is_replaced_during_its_load_is_loaded_again(
    mine: EngineProcess, file: Path, other: Path
) -> None:
    old, process = _row(mine)["digest"], psutil.Process(mine.process.pid)
    said: list[str] = []
    thread = threading.Thread(target=lambda: said.append(_said(mine)))
    thread.start()
    until(lambda: mine.status()["waiting"] == 1 and process.children())
    loading = process.children()
    for runner in loading:
        runner.suspend()  # else it may have loaded all of the file before that is replaced
    _replace(file, other)
    for runner in loading:
        runner.resume()
    thread.join()
    assert said == [_said(mine)]
    assert old != _row(mine)["digest"] == _loaded_digest(mine)
    until(lambda: len(process.children()) == 1)


async def test_a_load_of_a_file_that_changes_meanwhile_counts_for_nothing(
    tmp_path: Path, file: Path, other: Path
) -> None:
    """The scheduler alone: whether the file is replaced before the load begins or while it runs."""
    models = (GgufModel(name="mine", path=str(file)),)
    config = EngineConfig(store=tmp_path.parent / "store", models=models)
    scheduler = Scheduler(max_loaded=1, max_queue=1, keep_alive_s=60)
    shelf = Shelf(config, Store(config.store))
    engine = Engine(config, shelf, scheduler)
    shelf.open()
    await shelf.all()
    running = asyncio.ensure_future(scheduler.run())
    us = psutil.Process()
    before = {child.pid for child in us.children()}
    try:
        for begins in (False, True):
            model = await shelf.find(canonical("mine"))
            assert model is not None
            launch = engine.launch(model, engine.options(model, {}), shift=None)

            async def load() -> None:
                async with scheduler.runner(model, launch, None):  # noqa: B023 - awaited in here
                    pytest.fail("it was given the wrong weights")

            if not begins:
                _replace(file, other)
            task = asyncio.ensure_future(load())
            while begins and not {child.pid for child in us.children()} - before:
                await asyncio.sleep(0)
            if begins:
                _replace(file, smollm2())
            with pytest.raises(Replaced):
                await task
            assert scheduler.loaded == []
            assert {child.pid for child in us.children()} - before == set()
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await shelf.close()
