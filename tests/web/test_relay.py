"""What becomes of a miss when the pool stumbles: one status, one ending, nothing left running."""

import asyncio
import json

import pytest

from serve.errors import EngineDied, Overloaded
from serve.ports import Failed, Head, Tail
from serve.web.meter import Verdict
from tests.asgi import Caller, ended
from tests.web.front import Front
from tests.web.scripted_pool import JSON, NDJSON, Step, line

CHAT = b'{"model":"m","messages":[{"role":"user","content":"hi"}]}'
WHOLE = b'{"model":"m","messages":[{"role":"user","content":"hi"}],"stream":false}'
OPENAI = b'{"model":"m","messages":[{"role":"user","content":"hi"}],"stream":true}'
TAIL = Tail("d", "d", "f")
DIED = b'{"error":"an error was encountered while running the model: unexpected EOF"}\n'


async def test_each_line_is_sent_as_it_comes() -> None:
    front = Front([NDJSON, line("a"), line("b"), line("", done=True), TAIL])
    caller = await front.post("/api/chat", CHAT)
    assert caller.status == 200
    assert caller.headers[b"content-type"] == b"application/x-ndjson"
    assert b"content-length" not in caller.headers
    bodies = [message["body"] for message in caller.sent[1:]]
    assert bodies == [line("a"), line("b"), line("", done=True), b""]


async def test_the_status_waits_for_the_first_line() -> None:
    event = asyncio.Event()
    front = Front([NDJSON, event, line("a", done=True), TAIL])
    caller = Caller("POST", "/api/chat", CHAT)
    task = asyncio.get_running_loop().create_task(caller.run(front.app))
    while not front.pool.calls:
        await asyncio.sleep(0)
    assert caller.sent == []
    event.set()
    await task
    assert caller.status == 200


@pytest.mark.parametrize("error", [EngineDied(), EngineDied("gone")])
async def test_a_pool_lost_before_the_first_byte_has_a_status(error: EngineDied) -> None:
    scripts: list[list[Step]] = [[error], [NDJSON, error]]
    for script in scripts:
        caller = await Front(script).post("/api/chat", CHAT)
        assert caller.status == 500
        assert json.loads(caller.body) == {"error": str(error)}


async def test_a_pool_lost_in_mid_stream_is_a_last_line() -> None:
    caller = await Front([NDJSON, line("a"), EngineDied()]).post("/api/chat", CHAT)
    assert caller.status == 200
    assert caller.body == line("a") + DIED


async def test_an_engines_own_last_line_passes() -> None:
    caller = await Front([NDJSON, line("a") + line("b") + DIED]).post("/api/chat", CHAT)
    assert caller.body == line("a") + line("b") + DIED


async def test_a_failure_in_mid_answer_is_a_status_for_who_does_not_stream() -> None:
    scripts: list[list[Step]] = [[NDJSON, line("a"), DIED], [NDJSON, line("a"), EngineDied()]]
    for script in scripts:
        caller = await Front(script).post("/api/chat", WHOLE)
        assert caller.status == 500
        assert caller.body + b"\n" == DIED
        assert caller.headers[b"content-length"] == str(len(caller.body)).encode()


async def test_what_broke_is_told_in_its_place() -> None:
    broken = Failed("it broke")
    caller = await Front([NDJSON, line("a"), broken]).post("/api/chat", CHAT)
    assert (caller.status, caller.body) == (200, line("a") + b'{"error":"it broke"}\n')
    scripts: list[list[Step]] = [[NDJSON, line("a"), broken], [JSON, b'{"embed', broken], [broken]]
    scripts.append([NDJSON, broken])
    for script in scripts:
        caller = await Front(script).post("/api/chat", WHOLE)
        assert caller.status == 500
    torn = Front([JSON, b'{"models":[', broken])
    for path in ("/api/tags", "/v1/models"):
        caller = await torn.ask("GET", path)
        assert caller.status == 500
        assert b"it broke" in caller.body
    embedding = await Front([JSON, b'{"embeddings":[[0.1,', broken]).post("/api/embed", b"{}")
    assert (embedding.status, embedding.body) == (500, b'{"error":"it broke"}')


@pytest.mark.parametrize("garbage", [b"garbage\n", b"{}\n", b'{"message":3}\n', b"[]\n"])
async def test_lines_that_are_not_ollamas_end_the_answer_in_the_dialect(garbage: bytes) -> None:
    caller = await Front([NDJSON, line("a"), garbage]).post("/v1/chat/completions", OPENAI)
    assert caller.status == 200
    assert b"not Ollama's" in caller.body
    assert b"[DONE]" not in caller.body
    caller = await Front([NDJSON, garbage]).post("/v1/chat/completions", CHAT)
    assert caller.status == 500


async def test_the_clients_leaving_wins_over_what_fails_with_it() -> None:
    event = asyncio.Event()
    front = Front([event, EngineDied()])
    caller = Caller("POST", "/api/chat", CHAT)
    task = asyncio.get_running_loop().create_task(caller.run(front.app))
    while not front.pool.calls:
        await asyncio.sleep(0)
    caller.leave()
    event.set()
    await task
    assert front.meter.statuses["/api/chat", 499] + front.meter.statuses["/api/chat", 500] == 1


async def test_a_name_given_twice_is_left_to_the_engine() -> None:
    body = b'{"model":"m","stream":false,"options":{"seed":1},"options":{"top_k":1}}'
    front = Front([JSON, b'{"done":true}', TAIL])
    caller = await front.post("/api/chat", body)
    assert caller.body == b'{"done":true}'
    assert front.pool.calls[0].body == body


async def test_openai_clients_get_an_event_and_no_done() -> None:
    caller = await Front([NDJSON, line("a"), DIED]).post("/v1/chat/completions", OPENAI)
    events = caller.body.decode().split("\n\n")
    assert json.loads(events[-2].removeprefix("data: "))["error"]["type"] == "api_error"
    assert "[DONE]" not in caller.body.decode()


async def test_an_empty_stream_is_not_an_answer() -> None:
    caller = await Front([NDJSON]).post("/api/chat", WHOLE)
    assert caller.status == 500


async def test_a_refusal_is_passed_on_in_the_dialect() -> None:
    refusal: list[Step] = [
        Head(404, "application/json; charset=utf-8"),
        b'{"error":"model \'m\' not found"}',
    ]
    caller = await Front(refusal).post("/api/chat", CHAT)
    assert (caller.status, caller.body) == (404, b'{"error":"model \'m\' not found"}')
    caller = await Front(refusal).post("/v1/chat/completions", OPENAI)
    assert caller.status == 404
    assert json.loads(caller.body)["error"]["type"] == "not_found_error"


async def test_overload_says_when_to_come_back() -> None:
    busy: list[Step] = [Head(503, "application/json; charset=utf-8"), b'{"error":"server busy"}']
    scripts: list[list[Step]] = [[Overloaded()], busy]
    for script in scripts:
        caller = await Front(script).post("/api/chat", CHAT)
        assert caller.status == 503
        assert caller.headers[b"retry-after"] == b"1"


async def test_a_deadline_is_a_504_and_ends_the_call() -> None:
    caller = await Front([asyncio.Event()], deadline_s=0.01).post("/api/chat", CHAT)
    assert caller.status == 504
    assert b"deadline" in caller.body


async def test_one_object_passes_with_its_length() -> None:
    body = b'{"model":"m","embeddings":[[1]]}'
    caller = await Front([JSON, body[:9], body[9:], TAIL]).post("/api/embed", b'{"model":"m"}')
    assert caller.body == body
    assert caller.headers[b"content-length"] == str(len(body)).encode()


@pytest.mark.parametrize("body", [CHAT, WHOLE])
@pytest.mark.parametrize("script", [[NDJSON, line("a")], [NDJSON], []])
async def test_a_client_that_leaves_ends_the_call(script: list[Step], body: bytes) -> None:
    front = Front([*script, asyncio.Event()])
    caller = Caller("POST", "/api/chat", body)
    task = asyncio.get_running_loop().create_task(caller.run(front.app))
    while not front.pool.calls:
        await asyncio.sleep(0)
    caller.leave()
    await task
    assert front.pool.closed == 1
    assert front.meter.statuses["/api/chat", 499] == 1


async def test_serves_own_cancellation_ends_the_call_too() -> None:
    front = Front([NDJSON, line("a"), asyncio.Event()])
    caller = Caller("POST", "/api/chat", CHAT)
    task = asyncio.get_running_loop().create_task(caller.run(front.app))
    while len(caller.sent) < 2:
        await asyncio.sleep(0)
    await ended(task)
    assert front.meter.statuses["/api/chat", 200] == 1
    assert front.pool.closed == 1
    assert front.meter.in_flight == 0


async def test_what_is_asked_of_the_engine_keeps_unknown_fields_and_always_streams() -> None:
    front = Front([NDJSON, line("", done=True), TAIL])
    body = b'{"model":"m","stream":false,"x":{"b":1,"a":2},"messages":[{"role":"user"}]}'
    await front.post("/api/chat", body)
    assert front.pool.calls[0].body == (
        b'{"model":"m","x":{"b":1,"a":2},"messages":[{"role":"user"}]}'
    )
    await front.post("/api/chat", CHAT)
    assert front.pool.calls[1].body is CHAT


async def test_a_fault_of_our_own_is_a_500_without_its_details() -> None:
    caller = await Front([RuntimeError("secret")]).post("/api/chat", CHAT)
    assert caller.status == 500
    assert b"internal error" in caller.body
    assert b"secret" not in caller.body


async def test_a_fault_of_our_own_in_mid_stream_cuts_the_connection() -> None:
    front = Front([NDJSON, line("a"), RuntimeError("secret")])
    caller = Caller("POST", "/api/chat", CHAT)
    with pytest.raises(ExceptionGroup):
        await caller.run(front.app)
    assert caller.status == 200
    assert not caller.is_whole
    assert front.pool.closed == 1


async def test_every_request_is_counted_by_verdict() -> None:
    front = Front([NDJSON, line("", done=True), TAIL])
    await front.post("/api/chat", CHAT)
    verdicts, statuses, times = front.meter.drain()
    assert verdicts == {Verdict("bypass", "sampled"): 1}
    assert statuses == {("/api/chat", 200): 1}
    assert len(times) == 1
    assert not front.meter.answers
