"""`/v1/audio/transcriptions`: passed through, its errors in OpenAI's form."""

import asyncio
import json
from typing import Any

import httpx
import pytest

from serve.ports import Failed, Frame, Head, Tail
from tests.asgi import Caller, ended
from tests.stack import Stack
from tests.web.front import Front
from tests.web.scripted_pool import JSON

ROUTE = "/v1/audio/transcriptions"
EDGE = "multipart/form-data; boundary=edge"
FORM = (
    b'--edge\r\nContent-Disposition: form-data; name="model"\r\n\r\nm\r\n'
    b'--edge\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\nRIFF\r\n'
    b"--edge--\r\n"
)
OPENAI = Head(200, "application/json")


async def test_the_form_reaches_the_engine_as_it_came() -> None:
    front = Front([OPENAI, b'{"text":', b'"hi"}\n', Tail("", "", "")])
    got = await front.post(ROUTE, FORM, content_type=EDGE)
    assert (got.status, got.body) == (200, b'{"text":"hi"}\n')
    assert got.headers[b"content-type"] == b"application/json"
    (call,) = front.pool.calls
    assert (call.path, call.body, call.content_type) == (ROUTE, FORM, EDGE)
    assert call.model == "registry.ollama.ai/library/m:latest"
    again = await front.post(ROUTE, FORM, content_type=EDGE)
    assert again.headers[b"x-rayllama-cache"].startswith(b"bypass")
    assert len(front.pool.calls) == 2


async def test_text_stays_text() -> None:
    front = Front([Head(200, "text/plain"), b"hi", Tail("", "", "")])
    got = await front.post(ROUTE, FORM, content_type=EDGE)
    assert (got.headers[b"content-type"], got.body) == (b"text/plain", b"hi")


OWN = b'{"error":{"message":"model is required","type":"invalid_request_error"}}'
BUSY = b'{"error":"server busy"}'


@pytest.mark.parametrize(
    ("script", "status", "message"),
    [
        ([Head(400, "application/json"), OWN], 400, "model is required"),
        ([Head(503, JSON.content_type), BUSY], 503, "server busy"),
        ([Head(404, "text/plain"), b"404 page not found"], 501, "does not transcribe"),
        ([OPENAI, Failed("gone")], 500, "gone"),
        ([OPENAI, b'{"te', Failed("gone")], 500, "gone"),
        ([], 500, "running the model"),
    ],
)
async def test_errors_are_openais(script: list[Frame], status: int, message: str) -> None:
    got = await Front(script).post(ROUTE, FORM, content_type=EDGE)
    assert got.status == status
    assert message in json.loads(got.body)["error"]["message"]
    assert (got.headers.get(b"retry-after") == b"1") is (status == 503)


async def test_a_form_is_bounded() -> None:
    front = Front([])
    got = await front.post(ROUTE, b"x" * 1001, content_type=EDGE)
    assert got.status == 413
    assert json.loads(got.body)["error"]["type"] == "api_error"
    assert front.pool.calls == []


async def test_a_client_that_leaves_frees_the_engine() -> None:
    front = Front([OPENAI, asyncio.Event()])
    caller = Caller("POST", ROUTE, FORM)
    task = asyncio.get_running_loop().create_task(caller.run(front.app))
    async with asyncio.timeout(5):
        while not front.pool.calls:
            await asyncio.sleep(0)
        caller.leave()
        await task
    await ended(task)
    assert (front.pool.closed, caller.sent) == (1, [])


@pytest.mark.engine
def test_an_engine_without_audio_says_so(stack: Stack) -> None:
    sent: Any = {"model": (None, "smollm2:135m"), "file": ("a.wav", b"RIFF0000WAVEfmt ")}
    got = httpx.post(stack.url + ROUTE, files=sent, timeout=60)
    assert got.status_code == 501
    assert "transcribe" in got.json()["error"]["message"]
