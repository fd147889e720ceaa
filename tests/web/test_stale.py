"""Answers past their time: while a new one is made, and where none can be (RFC 5861)."""

import asyncio
from collections.abc import Sequence

import pytest
from starlette.types import Message

from serve.errors import EngineDied, EngineNotReady, Overloaded, Unforeseen
from serve.ports import Failed, Head
from tests.asgi import Caller
from tests.cache.world import until
from tests.web.cached import SETTINGS, TAIL, CachedFront, cached_front
from tests.web.scripted_pool import NDJSON, Step, line
from tests.web.test_cache_status import SCRIPT, STREAMED, WHOLE, status

TTL_S = 3600
# Without near caches: these go by a clock that isn't moved by hand.
HARD = SETTINGS.model_copy(update={"stale_if_error_s": 600, "near_max_bytes": 0})
KIND = HARD.model_copy(update={"stale_while_revalidate_s": 60})
NEW: list[Step] = [NDJSON, line("new"), line("", done=True), TAIL]
REFUSED = b'{"error":"refused"}'


async def aged(front: CachedFront, over_s: float, then: Sequence[Step]) -> bytes:
    """Have an answer stored, so long past its time; `then` is what the pool says from now on."""
    old = await front.post("/api/chat", WHOLE)
    front.now.advance(TTL_S + over_s)
    front.pool.script = then  # type: ignore[attr-defined]
    return old.body


async def test_a_stale_answer_is_given_at_once_and_renewed_once() -> None:
    gate = asyncio.Event()
    async with cached_front(SCRIPT, KIND) as front:
        old = await aged(front, 10, [gate, *NEW])
        for _ in range(5):
            caller = Caller("POST", "/api/chat", WHOLE)
            await caller.run(front.app)
            assert caller.body == old
            assert caller.headers[b"x-rayllama-cache"] == b"hit; tier=stale"
            assert caller.headers[b"age"] == b"3610"
            assert status(caller) == ["rayllama", "hit", "ttl=-10", "detail=stale"]
        await until(lambda: len(front.pool.calls) == 2)
        gate.set()
        await until(lambda: front.pool.closed == 2)
        got = await front.post("/api/chat", WHOLE)
        assert b"new" in got.body
        assert status(got) == ["rayllama", "hit", "ttl=3600", "detail=shared"]
        assert len(front.pool.calls) == 2


async def test_beyond_the_window_a_new_answer_is_waited_for() -> None:
    async with cached_front(SCRIPT, KIND) as front:
        await aged(front, 61, NEW)
        got = await front.post("/api/chat", WHOLE)
        assert b"new" in got.body
        assert status(got) == ["rayllama", "fwd=stale", "detail=stale", "stored"]
        assert status(await front.post("/api/chat", WHOLE))[1] == "hit"


@pytest.mark.parametrize(
    "fault",
    [
        [Overloaded()],
        [EngineNotReady("away")],
        [EngineDied()],
        [NDJSON, Failed("gone")],
        [NDJSON, b'{"error":"gone"}\n'],
        [Head(503, "application/json; charset=utf-8"), REFUSED],
        [Head(500, "application/json; charset=utf-8"), REFUSED],
    ],
)
async def test_a_stale_answer_stands_for_an_error(fault: list[Step]) -> None:
    async with cached_front(SCRIPT, HARD) as front:
        old = await aged(front, 599, fault)
        got = await front.post("/api/chat", WHOLE)
        assert (got.status, got.body) == (200, old)
        assert status(got) == ["rayllama", "hit", "ttl=-599", "detail=stale"]
        front.now.advance(2)
        got = await front.post("/api/chat", WHOLE)
        assert got.status >= 500


async def test_a_refusal_that_is_the_clients_own_fault_is_told() -> None:
    async with cached_front(SCRIPT, HARD) as front:
        await aged(front, 1, [Head(400, "application/json; charset=utf-8"), REFUSED])
        got = await front.post("/api/chat", WHOLE)
        assert (got.status, got.body) == (400, REFUSED)


@pytest.mark.parametrize("error", [EngineDied(), Overloaded(), Unforeseen("a fault")])
async def test_what_a_client_has_begun_to_receive_is_not_replaced(error: Exception) -> None:
    async with cached_front(SCRIPT, HARD) as front:
        await aged(front, 1, [NDJSON, line("ne"), error])
        got = await front.post("/api/chat", STREAMED)
        assert got.body.startswith(line("ne") + b'{"error":')


async def test_not_even_where_nothing_but_the_status_was_sent() -> None:
    def break_off(_: Message) -> None:
        raise Overloaded

    async with cached_front(SCRIPT, HARD) as front:
        await aged(front, 1, NEW)
        caller = Caller("POST", "/api/chat", STREAMED)
        caller.on_send = break_off
        with pytest.raises(Overloaded):
            await caller.run(front.app)
        assert len(caller.sent) == 1


@pytest.mark.parametrize(("said", "expected"), [(99, 500), (101, 200)])
async def test_a_client_may_say_how_stale_in_need(said: int, expected: int) -> None:
    async with cached_front(SCRIPT, HARD) as front:
        await aged(front, 100, [EngineDied()])
        got = await front.post("/api/chat", WHOLE, cache_control=f"stale-if-error={said}")
        assert got.status == expected


@pytest.mark.parametrize(
    ("cache_control", "expected"),
    [("only-if-cached", 504), ("max-age=3600", 200), ("no-cache", 200)],
)
async def test_who_wants_it_fresh_gets_nothing_stale(cache_control: str, expected: int) -> None:
    async with cached_front(SCRIPT, KIND) as front:
        old = await aged(front, 10, NEW)
        got = await front.post("/api/chat", WHOLE, cache_control=cache_control)
        assert got.status == expected
        assert got.body != old
