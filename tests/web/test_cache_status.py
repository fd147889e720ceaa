"""What the cache says of itself, and what a client may ask of it (RFC 9111, RFC 9211)."""

import json

import pytest

from serve.errors import EngineDied
from tests.asgi import Caller
from tests.web.cached import TAIL, cached_front
from tests.web.front import Front
from tests.web.scripted_pool import NDJSON, Step, line

TALK = '"model":"smollm2:135m","messages":[{"role":"user","content":"hi"}]'
STREAMED = b'{%s,"options":{"temperature":0}}' % TALK.encode()
WHOLE = b'{%s,"options":{"temperature":0},"stream":false}' % TALK.encode()
OPENAI = b'{%s,"temperature":0}' % TALK.encode()
SCRIPT: list[Step] = [NDJSON, line("a"), line("", done=True), TAIL]


def status(caller: Caller) -> list[str]:
    """The members of Cache-Status but the key, which is checked to be one."""
    members = caller.headers[b"cache-status"].decode().split("; ")
    keys = [member for member in members if member.startswith("key=")]
    assert all(len(bytes.fromhex(key[5:-1])) == 16 for key in keys)
    return [member for member in members if member not in keys]


async def test_a_whole_reply_knows_that_it_was_stored() -> None:
    async with cached_front(SCRIPT) as front:
        first = await front.post("/api/chat", WHOLE)
        assert status(first) == ["rayllama", "fwd=miss", "detail=cold", "stored"]
        assert b"age" not in first.headers
        front.now.advance(10.5)
        second = await front.post("/api/chat", WHOLE)
        assert status(second) == ["rayllama", "hit", "ttl=3590", "detail=near"]
        assert second.headers[b"age"] == b"10"
        assert key(second) == key(first)
        third = await front.post("/api/chat", WHOLE + b" ")
        assert status(third) == ["rayllama", "hit", "ttl=3590", "detail=shared"]
        assert third.body == first.body


async def test_a_stream_does_not_know_yet() -> None:
    async with cached_front(SCRIPT) as front:
        first = await front.post("/api/chat", STREAMED)
        assert status(first) == ["rayllama", "fwd=miss", "detail=cold"]
        assert status(await front.post("/api/chat", STREAMED))[1] == "hit"


@pytest.mark.parametrize(
    ("cache_control", "members"),
    [
        ("no-cache", ["fwd=request", "detail=no-cache", "stored"]),
        ("max-age=0", ["fwd=request", "detail=no-cache", "stored"]),
        ("max-age=9", ["fwd=request", "detail=too-old", "stored"]),
        ("no-store", ["fwd=request", "detail=no-store"]),
        ("max-age=11", ["hit", "ttl=3590", "detail=shared"]),
        ("only-if-cached", ["hit", "ttl=3590", "detail=shared"]),
        ("only-if-cached, max-age=11", ["hit", "ttl=3590", "detail=shared"]),
    ],
)
async def test_what_a_client_may_ask_for(cache_control: str, members: list[str]) -> None:
    async with cached_front(SCRIPT) as front:
        await front.post("/api/chat", WHOLE)
        front.now.advance(10)
        for _ in range(2 if "hit" in members else 1):
            got = await front.post("/api/chat", WHOLE, cache_control=cache_control)
            assert status(got)[1:] == members
        assert len(front.pool.calls) == (1 if "hit" in members else 2)


async def test_a_header_in_two_lines_is_one_list() -> None:
    async with cached_front(SCRIPT) as front:
        await front.post("/api/chat", WHOLE)
        for values in ([b"no-store", b"max-age=60"], [b"max-age=60", b"no-store"]):
            sent = [(b"cache-control", value) for value in values]
            got = await front.ask("POST", "/api/chat", WHOLE, sent)
            assert status(got)[1:] == ["fwd=request", "detail=no-store"]


async def test_a_fresh_answer_takes_the_place_of_one_that_was_too_old() -> None:
    async with cached_front(SCRIPT) as front:
        await front.post("/api/chat", WHOLE)
        front.now.advance(10)
        await front.post("/api/chat", WHOLE, cache_control="max-age=9")
        got = await front.post("/api/chat", WHOLE, cache_control="max-age=9")
        assert (status(got)[1], got.headers[b"age"]) == ("hit", b"0")


async def test_only_if_cached_asks_nobody() -> None:
    async with cached_front(SCRIPT) as front:
        for body, reason in [
            (WHOLE, "cold"),
            (WHOLE.replace(b'"temperature":0', b""), "sampled"),
            (WHOLE.replace(b"smollm2", b"other"), "unlisted"),
        ]:
            got = await front.post("/api/chat", body, cache_control="only-if-cached")
            assert got.status == 504
            assert json.loads(got.body) == {
                "error": f"no answer in memory ({reason}), and Cache-Control: only-if-cached"
                " forbids asking for a new one"
            }
            assert status(got)[-1] == f"detail={reason}"
            assert got.headers[b"x-rayllama-cache"].endswith(b"reason=" + reason.encode())
        got = await front.post("/v1/chat/completions", OPENAI, cache_control="only-if-cached")
        assert got.status == 504
        assert json.loads(got.body)["error"]["type"] == "api_error"
        assert b"retry-after" not in got.headers
        await front.post("/api/chat", WHOLE)
        got = await front.post("/api/chat", WHOLE, cache_control="only-if-cached, no-cache")
        assert (got.status, status(got)[1]) == (504, "fwd=request")
        assert len(front.pool.calls) == 1


async def test_one_generation_is_one_entry_in_both_dialects() -> None:
    script: list[Step] = [NDJSON, line("a"), line("", done=True), TAIL]
    for first, second in ((OPENAI, STREAMED), (STREAMED, OPENAI)):
        async with cached_front(script) as front:
            answers = [
                await front.post("/api/chat" if body is STREAMED else "/v1/chat/completions", body)
                for body in (first, second)
            ]
            assert [status(answer)[1] for answer in answers] == ["fwd=miss", "hit"]
            assert key(answers[0]) == key(answers[1])


async def test_only_if_cached_says_so_while_the_cache_is_away() -> None:
    front = Front(SCRIPT)
    got = await front.post("/api/chat", WHOLE, cache_control="only-if-cached")
    assert (got.status, front.pool.calls) == (504, [])
    assert got.headers[b"cache-status"] == b"rayllama; fwd=miss; detail=no-catalogue"


async def test_what_is_never_cached_is_a_bypass_and_has_no_key() -> None:
    got = await Front(SCRIPT).post("/api/chat", b"{%s}" % TALK.encode())
    assert got.headers[b"cache-status"] == b"rayllama; fwd=bypass; detail=sampled"


async def test_a_failure_says_what_the_cache_made_of_it() -> None:
    got = await Front([EngineDied()]).post("/api/chat", WHOLE)
    assert got.status == 500
    assert got.headers[b"cache-status"] == b"rayllama; fwd=miss; detail=no-catalogue"
    assert got.headers[b"x-rayllama-cache"] == b"miss; reason=no-catalogue"


async def test_what_could_not_be_kept_is_not_called_stored() -> None:
    script: list[Step] = [NDJSON, line("a"), line("", done=True).replace(b"stop", b"length"), TAIL]
    async with cached_front(script) as front:
        got = await front.post("/api/chat", WHOLE)
        assert status(got) == ["rayllama", "fwd=miss", "detail=cold"]


def key(caller: Caller) -> bytes:
    return caller.headers[b"cache-status"].split(b'key="')[1].split(b'"')[0]
