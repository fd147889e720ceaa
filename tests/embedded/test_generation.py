"""Generating on the real engine: streaming, parallel slots, repeatability, clients that leave."""

import asyncio
import contextlib
import itertools

import pytest

from tests.embedded.clients import counting, lines, send
from tests.embedded.engines import EngineProcess, until

pytestmark = pytest.mark.engine

_MANY = 800


def _is_idle(engine: EngineProcess) -> bool:
    runner = engine.runner("smollm2")
    return (runner["busy"], runner["uses"]) == (0, 0)


async def test_each_token_leaves_while_the_model_computes_the_next(engine: EngineProcess) -> None:
    async with contextlib.aclosing(lines(engine.url, counting(_MANY))) as stream:
        first = await anext(stream)
        assert engine.runner("smollm2")["busy"] == 1
    assert first["response"]
    assert first["done"] is False


async def test_two_slots_decode_at_the_same_time(engine: EngineProcess) -> None:
    order: list[int] = []

    async def read(number: int) -> None:
        async for line in lines(engine.url, counting(40, options={"seed": number})):
            order.append(number)
            assert "error" not in line

    await asyncio.gather(read(1), read(2))
    turns = sum(before != after for before, after in itertools.pairwise(order))
    assert turns > 20, order


async def test_a_third_request_waits_for_a_slot(engine: EngineProcess) -> None:
    first, second = lines(engine.url, counting(_MANY)), lines(engine.url, counting(_MANY))
    async with contextlib.aclosing(first), contextlib.aclosing(second):
        await anext(first)
        await anext(second)
        third = asyncio.ensure_future(anext(lines(engine.url, counting(2))))
        await asyncio.to_thread(until, lambda: engine.runner("smollm2")["uses"] == 3)
        assert engine.runner("smollm2")["busy"] == 2
        assert not third.done()
        await first.aclose()
        assert (await third)["response"]


def test_temperature_0_says_the_same_twice(engine: EngineProcess) -> None:
    body = counting(60, stream=False)
    said = {engine.post("/api/generate", body).json()["response"] for _ in range(3)}
    other = counting(30, prompt="Once upon a time", stream=False)
    engine.post("/api/generate", other)
    said.add(engine.post("/api/generate", body).json()["response"])
    assert len(said) == 1


async def test_temperature_0_says_the_same_beside_others(engine: EngineProcess) -> None:
    async def said(number: int) -> str:
        body = counting(40, options={"seed": number})
        return "".join([line["response"] async for line in lines(engine.url, body)])

    alone = await said(1)
    assert {alone} == set(await asyncio.gather(*map(said, range(4))))


def test_a_seed_repeats_and_another_does_not(engine: EngineProcess) -> None:
    def said(seed: int) -> str:
        options = {"temperature": 1, "seed": seed}
        body = counting(30, prompt="Once upon a time", stream=False, options=options)
        return str(engine.post("/api/generate", body).json()["response"])

    assert said(1) == said(1)
    assert said(1) != said(2)


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_stops_the_computation(engine: EngineProcess, *, stream: bool) -> None:
    connection = send(engine.port, "/api/generate", counting(100_000, stream=stream))
    until(lambda: engine.runner("smollm2")["busy"] == 1)
    connection.close()
    until(lambda: _is_idle(engine))
    assert engine.counters()["deaths"] == 0


def test_a_client_that_leaves_the_queue_takes_no_slot(engine: EngineProcess) -> None:
    busy = [send(engine.port, "/api/generate", counting(100_000)) for _ in range(2)]
    until(lambda: engine.runner("smollm2")["busy"] == 2)
    waiting = send(engine.port, "/api/chat", {"model": "smollm2", "messages": [{"role": "user"}]})
    until(lambda: engine.runner("smollm2")["uses"] == 3)
    waiting.close()
    until(lambda: engine.runner("smollm2")["uses"] == 2)
    for connection in busy:
        connection.close()
    until(lambda: _is_idle(engine))


def test_one_token_over_and_over_ends_the_answer(engine: EngineProcess) -> None:
    grammar = {"type": "string", "pattern": "^(a ){200}$"}
    body = counting(300, stream=False, format=grammar)
    answer = engine.post("/api/generate", body).json()
    assert 30 <= answer["response"].count("a") < 40
    assert answer["done"] is False


def test_answers_end_at_a_stop_and_at_the_limit(engine: EngineProcess) -> None:
    stopped = engine.post("/api/generate", counting(50, stream=False, options={"stop": ["10"]}))
    assert stopped.json()["done_reason"] == "stop"
    assert "10" not in stopped.json()["response"]
    limited = engine.post("/api/generate", counting(5, stream=False)).json()
    assert (limited["done_reason"], limited["eval_count"]) == ("length", 5)


def test_a_context_goes_on_where_an_answer_ended(engine: EngineProcess) -> None:
    first = engine.post(
        "/api/generate",
        {
            "model": "smollm2",
            "prompt": "My name is Ada.",
            "stream": False,
            "options": {"num_predict": 4},
        },
    ).json()
    second = engine.post(
        "/api/generate",
        {
            "model": "smollm2",
            "prompt": "What is my name?",
            "context": first["context"],
            "stream": False,
            "options": {"num_predict": 4},
        },
    ).json()
    assert second["context"][: len(first["context"])] == first["context"]


def test_long_chats_lose_their_oldest_messages_but_not_the_system_message(
    engine: EngineProcess,
) -> None:
    messages = [{"role": "system", "content": "Be brief."}]
    messages += [{"role": "user", "content": f"{n} " + "word " * 200} for n in range(8)]
    body = {"model": "smollm2", "messages": messages, "_debug_render_only": True}
    prompt = engine.post("/api/chat", body).json()["_debug_info"]["rendered_template"]
    assert "Be brief." in prompt
    assert "7 word" in prompt
    assert "0 word" not in prompt


def test_what_is_too_long_and_may_not_be_cut_is_refused(engine: EngineProcess) -> None:
    body = counting(4, prompt="word " * 3000, truncate=False, stream=False)
    answer = engine.post("/api/generate", body)
    assert answer.status_code == 400
    assert "exceed_context_size_error" in answer.json()["error"]
    cut = engine.post("/api/generate", body | {"truncate": True})
    assert cut.status_code == 200
    assert cut.json()["prompt_eval_count"] < 1024
