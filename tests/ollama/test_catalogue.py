"""The engine's list of models, and what else decides its answers."""

import asyncio
from typing import Any

import pytest

from serve.errors import EngineDied, EngineNotReady
from serve.ollama.catalogue import CatalogueReader, fingerprint, parse_tags
from serve.ports import Model
from serve.settings import InferenceSettings, Settings
from tests.ollama.engines import until

SMOL = "registry.ollama.ai/library/smollm2:135m"
ROW = b'{"name":"smollm2:135m","model":"smollm2:135m","size":9.8e7,"digest":"fd5f","x":"\\u003c"}'
HF = b'{ "digest": "aa", "name":"hf.co/Org/Repo:Q4_K_M" }'


def test_rows_stay_as_they_were_sent() -> None:
    tags = b'{"models":[' + ROW + b"," + HF + b'],"more":1}'
    assert parse_tags(tags) == {
        SMOL: Model("fd5f", ROW),
        "hf.co/org/repo:q4_k_m": Model("aa", HF),
    }


@pytest.mark.parametrize("tags", [b'{"models":null}', b'{"models":[]}', b"{}"])
def test_an_engine_without_models(tags: bytes) -> None:
    assert parse_tags(tags) == {}


def test_a_row_that_cannot_be_asked_for_is_left_out() -> None:
    assert list(parse_tags(b'{"models":[{"name":"a b"},{"name":""},' + ROW + b"]}")) == [SMOL]


@pytest.mark.parametrize("tags", [b"", b"<html>", b"[]", b'{"models":[{"digest":"d"}]}'])
def test_what_is_no_list_is_no_answer(tags: bytes) -> None:
    with pytest.raises(EngineDied):
        parse_tags(tags)


def inference(**given: Any) -> Settings:
    return Settings(inference=InferenceSettings(**given))


def test_every_setting_that_changes_answers_is_in_the_fingerprint() -> None:
    base = inference(engine="ollama")
    assert fingerprint(base, "0.33.0") == "ollama/0.33.0 ctx=4096 kv=f16 flash=auto"
    variants = [
        base,
        inference(engine="embedded"),
        inference(engine="ollama", context_length=2048),
        inference(engine="ollama", kv_cache_type="q8_0"),
        inference(engine="ollama", flash_attention=True),
        inference(engine="ollama", flash_attention=False),
        inference(engine="ollama", env={"OLLAMA_GO_TEMPLATE": "1"}),
        inference(engine="ollama", env={"OLLAMA_GO_TEMPLATE": "0"}),
        inference(engine="attach", url="http://10.0.0.1:11434"),
        inference(engine="attach", url="http://10.0.0.2:11434"),
    ]
    assert len({fingerprint(one, "0.33.0") for one in variants}) == len(variants)
    assert fingerprint(base, "0.33.1") != fingerprint(base, "0.33.0")


def test_no_secret_of_the_environment_is_in_the_fingerprint() -> None:
    settings = inference(env={"HTTPS_PROXY": "http://user:hunter2@proxy"})
    assert "hunter2" not in fingerprint(settings, "1")


class Engine:
    """A list of models that answers when the test says so."""

    def __init__(self) -> None:
        self.digest = "d1"
        self.reads = 0
        self.may_answer = asyncio.Semaphore(0)

    async def read(self) -> bytes:
        self.reads += 1
        said = b'{"models":[{"name":"smollm2:135m","digest":"%s"}]}' % self.digest.encode()
        await self.may_answer.acquire()
        return said


async def test_a_read_is_shared_by_those_who_asked_before_it_and_nobody_else() -> None:
    engine = Engine()
    reader = CatalogueReader(engine.read)
    first = [reader.ask() for _ in range(3)]
    await until(lambda: engine.reads == 1)
    engine.digest = "d2"  # after the first read began: who asks now must see it
    later = [reader.ask() for _ in range(3)]
    engine.may_answer.release()
    assert {(await task)[SMOL].digest for task in first} == {"d1"}
    await until(lambda: engine.reads == 2)
    engine.may_answer.release()
    assert {(await task)[SMOL].digest for task in later} == {"d2"}
    assert engine.reads == 2
    engine.may_answer.release()
    again = await reader.fresh()
    assert again is await later[0], "the same bytes are not parsed again"
    await reader.aclose()


async def test_who_leaves_takes_nobody_along() -> None:
    engine = Engine()
    reader = CatalogueReader(engine.read)
    leaver = asyncio.ensure_future(reader.fresh())
    stayer = asyncio.ensure_future(reader.fresh())
    await until(lambda: engine.reads == 1)
    leaver.cancel()
    engine.may_answer.release()
    assert SMOL in await stayer
    await reader.aclose()


async def test_a_failed_read_fails_its_askers_alone() -> None:
    async def fails() -> bytes:
        raise EngineNotReady("down")

    reader = CatalogueReader(fails)
    with pytest.raises(EngineNotReady):
        await reader.fresh()
    unasked = reader.ask()
    await until(unasked.done)
    with pytest.raises(EngineNotReady):
        await reader.fresh()
    await reader.aclose()


async def test_closing_ends_what_runs() -> None:
    engine = Engine()
    reader = CatalogueReader(engine.read)
    running = reader.ask()
    await until(lambda: engine.reads == 1)
    waiting = reader.ask()
    await reader.aclose()
    assert running.cancelled()
    assert waiting.cancelled()
