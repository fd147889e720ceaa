"""The client of a runner's HTTP, where runners misbehave."""

import asyncio
import contextlib
from typing import Any

import pytest

from serve.embedded.llama import Llama
from serve.errors import RUNNER_DIED, RUNNER_GONE, EngineDied, EngineRefused
from tests.embedded.engines import free_port
from tests.embedded.faulty_runner import END, HEAD, chunk, faulty

_EVENTS = b': ping\n\ndata: {"n":1}\n\ndata: {"n":2}\n\ndata: [DONE]\n\n'


async def events(llama: Llama) -> list[dict[str, Any]]:
    async with contextlib.aclosing(llama.events("/completion", {})) as stream:
        return [event async for event in stream]


@pytest.mark.parametrize("size", [1, 7, 1000])
async def test_events_come_however_the_bytes_are_cut(size: int) -> None:
    parts = [_EVENTS[at : at + size] for at in range(0, len(_EVENTS), size)]
    async with faulty(HEAD, *map(chunk, parts), END) as (runner, llama):
        assert await events(llama) == [{"n": 1}, {"n": 2}]
        assert b"Authorization: Bearer key" in runner.request


async def test_an_answer_that_stops_in_the_middle_is_a_death() -> None:
    async with faulty(HEAD, chunk(b'data: {"n":1}\n\n')) as (_, llama):
        with pytest.raises(EngineDied, match=RUNNER_DIED):
            await events(llama)
        assert llama.broken


@pytest.mark.parametrize("pieces", [(), (b"HTTP/1.1 200",), (b"nonsense\r\n\r\n",)])
async def test_no_answer_at_all_is_a_runner_that_is_gone(pieces: tuple[bytes, ...]) -> None:
    async with faulty(*pieces) as (_, llama):
        with pytest.raises(EngineDied, match=RUNNER_GONE):
            await llama.ask("/health")
        assert llama.broken


async def test_nobody_there_is_a_runner_that_is_gone() -> None:
    llama = Llama(free_port(), "key")
    with pytest.raises(EngineDied, match=RUNNER_GONE):
        await llama.ask("/health")
    assert llama.broken


async def test_a_refusal_keeps_the_runners_own_words() -> None:
    said = b'{"error":{"code":400,"message":"no"}}'
    head = b"HTTP/1.1 400 Bad Request\r\nContent-Length: %d\r\n\r\n" % len(said)
    async with faulty(head, said) as (_, llama):
        with pytest.raises(EngineRefused) as refused:
            await events(llama)
        assert (refused.value.status, str(refused.value)) == (400, said.decode())
        assert not llama.broken


async def test_an_endless_line_is_refused() -> None:
    piece = chunk(b"x" * 1_000_000)
    async with faulty(HEAD, *[piece] * 9, stays=True) as (_, llama):
        with pytest.raises(EngineDied, match="8 MB"):
            await events(llama)


async def test_closing_the_stream_closes_the_connection() -> None:
    async with faulty(HEAD, chunk(b'data: {"n":1}\n\n'), stays=True) as (runner, llama):
        stream = llama.events("/completion", {})
        assert await anext(stream) == {"n": 1}
        await stream.aclose()
        async with asyncio.timeout(10):
            await runner.left.wait()
