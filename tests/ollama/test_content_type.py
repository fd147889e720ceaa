"""What an engine is told of a body's type, read off the socket."""

import asyncio
from asyncio import StreamReader, StreamWriter
from contextlib import aclosing

import pytest

from serve.ollama.client import EngineClient
from serve.ports import Call, Head

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nhi"


@pytest.mark.parametrize(
    ("given", "told"),
    [("", b"application/json"), ("multipart/form-data; boundary=a", b"multipart/form-data; bound")],
)
async def test_json_unless_the_call_says_otherwise(given: str, told: bytes) -> None:
    heads: list[bytes] = []

    async def answer(reader: StreamReader, writer: StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        await reader.readexactly(4)
        writer.write(ANSWER)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        client = EngineClient(f"http://127.0.0.1:{port}")
        call = Call("POST", "/v1/audio/transcriptions", b"form", "id", content_type=given)
        async with aclosing(client.stream(call)) as frames:
            assert [frame async for frame in frames] == [Head(200, "text/plain"), b"hi"]
        await client.aclose()
    assert b"\r\nContent-Type: " + told in heads[0]
