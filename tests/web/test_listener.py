"""A port that is taken at first."""

import asyncio
import logging
import socket

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from serve.web.listener import listen
from serve.web.reply import Reply
from tests.asgi import ended
from tests.cache.world import until


async def hello(_scope: Scope, _receive: Receive, send: Send) -> None:
    await Reply(200, b"text/plain", b"hello").send(send)


async def test_it_waits_for_its_port_and_leaves_it(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "rayllama.admin")
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        listening = asyncio.get_running_loop().create_task(listen(hello, "127.0.0.1", port))
        await until(lambda: "trying again" in caplog.text)
    answers: list[httpx.Response] = []
    async with httpx.AsyncClient() as client:

        async def ask() -> None:
            try:
                answers.append(await client.get(f"http://127.0.0.1:{port}/"))
            except httpx.ConnectError:
                await asyncio.sleep(0.02)

        async with asyncio.timeout(20):
            while not answers:
                await ask()
    assert answers[0].text == "hello"
    await ended(listening)
    socket.create_server(("127.0.0.1", port)).close()
