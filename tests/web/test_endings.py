"""Streams that end otherwise than they should: never without a word, in no dialect but Ollama's."""

import json

import pytest
from starlette.types import Message

from serve.errors import (
    RUNNER_DIED,
    DeadlineExceeded,
    EngineDied,
    EngineRefused,
    Overloaded,
    RayllamaError,
    Unforeseen,
)
from serve.ports import Failed
from tests.asgi import Caller
from tests.web.cached import TAIL, cached_front
from tests.web.front import Front
from tests.web.scripted_pool import NDJSON, line

ASKS = {
    "model": "smollm2:135m",
    "messages": [{"role": "user", "content": "hi"}],
    "prompt": "hi",
    "input": "hi",
    "max_tokens": 9,
    "temperature": 0,
    "options": {"temperature": 0},
}
STREAMED = json.dumps(ASKS | {"stream": True}).encode()
WHOLE = json.dumps(ASKS | {"stream": False}).encode()
THINKING = json.dumps(ASKS | {"stream": True, "thinking": {"type": "enabled"}}).encode()
TRANSLATED = ("/v1/chat/completions", "/v1/completions", "/v1/messages", "/v1/responses")


def said(route: str) -> list[bytes]:
    """Two lines, none of them the last."""
    lines = [line("a"), line("b")]
    if route in ("/v1/completions", "/api/generate"):
        lines = [b'{"model":"m","response":"%b","done":false}\n' % text for text in (b"a", b"b")]
    return lines


@pytest.mark.parametrize("route", TRANSLATED)
async def test_a_stream_that_just_ends_ends_as_one_whose_runner_died(route: str) -> None:
    lines = said(route)
    died = await Front([NDJSON, *lines, Failed(RUNNER_DIED)]).post(route, STREAMED)
    for pieces in (lines, [b"".join(lines)]):
        got = await Front([NDJSON, *pieces]).post(route, STREAMED)
        assert (got.status, got.body) == (200, died.body)
        assert RUNNER_DIED.encode() in got.body
    empty = await Front([NDJSON]).post(route, STREAMED)
    assert (empty.status, RUNNER_DIED.encode() in empty.body) == (200, True)


@pytest.mark.parametrize(
    "error", [Overloaded("full"), DeadlineExceeded("late"), Unforeseen("ours")]
)
@pytest.mark.parametrize("route", ["/api/chat", *TRANSLATED])
async def test_whatever_fails_in_mid_stream_is_its_last_event(
    route: str, error: RayllamaError
) -> None:
    lines = said(route)
    told = await Front([NDJSON, *lines, Failed(str(error))]).post(route, STREAMED)
    got = await Front([NDJSON, *lines, error]).post(route, STREAMED)
    assert (got.status, got.body) == (200, told.body)


@pytest.mark.parametrize("route", ["/api/chat", "/api/generate"])
async def test_ollamas_own_clients_get_what_it_sends(route: str) -> None:
    lines = said(route)
    got = await Front([NDJSON, *lines]).post(route, STREAMED)
    assert got.body == b"".join(lines)


async def test_who_does_not_stream_gets_what_there_is_as_from_ollama() -> None:
    front = Front([NDJSON, *said("/api/chat")])
    native = json.loads((await front.post("/api/chat", WHOLE)).body)
    assert (native["message"]["content"], native["done"]) == ("ab", False)
    openai = json.loads((await front.post("/v1/chat/completions", WHOLE)).body)
    choice = openai["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("ab", None)
    anthropic = json.loads((await front.post("/v1/messages", WHOLE)).body)
    assert anthropic["content"] == [{"type": "text", "text": "ab"}]
    assert "stop_reason" not in anthropic


@pytest.mark.parametrize("body", [STREAMED, WHOLE])
@pytest.mark.parametrize("route", ["/api/chat", *TRANSLATED])
async def test_half_an_answer_is_not_kept(route: str, body: bytes) -> None:
    async with cached_front([NDJSON, *said(route)]) as front:
        for _ in range(2):
            got = await front.post(route, body)
            assert got.headers[b"x-rayllama-cache"] == b"miss; reason=cold"
        assert len(front.pool.calls) == 2


@pytest.mark.parametrize(
    "error", [Overloaded(), EngineDied(), EngineRefused(400, '"m" does not support thinking')]
)
async def test_an_answer_that_has_begun_is_neither_replaced_nor_asked_for_again(
    error: RayllamaError,
) -> None:
    def break_off(_: Message) -> None:
        raise error

    caller = Caller("POST", "/v1/messages", THINKING)
    caller.on_send = break_off
    async with cached_front([NDJSON, line("a"), line("", done=True), TAIL]) as front:
        with pytest.raises(type(error)):
            await caller.run(front.app)
        assert len(front.pool.calls) == 1
    assert len(caller.sent) == 1
