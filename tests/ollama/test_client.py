"""The client over real sockets, against an engine that fails on demand."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

import pytest

from serve.errors import EngineDied, EngineNotReady, EngineRefused
from serve.ollama.client import BUFFER_BYTES, EngineClient
from serve.ollama.supervisor import Supervisor
from serve.ports import Call, Head
from tests.ollama.engines import collect, faulty, generate, until


@pytest.fixture
async def client(tmp_path: Path) -> AsyncGenerator[EngineClient, None]:
    async with Supervisor(faulty(tmp_path)) as supervisor:
        yield await supervisor.ready()


async def test_lines_arrive_whole_whatever_the_chunks(client: EngineClient) -> None:
    async with aclosing(client.stream(generate("torn"))) as frames:
        assert await anext(frames) == Head(200, "application/x-ndjson")
        parts = [part async for part in frames]
    assert all(isinstance(part, bytes) and part.endswith(b"\n") for part in parts)
    texts = [json.loads(line)["response"] for line in b"".join(parts).splitlines()]  # type: ignore[arg-type]
    assert texts == ["first", "second", "third", "b0", ""]


async def test_what_piles_up_while_the_consumer_is_busy_is_one_item(
    client: EngineClient, tmp_path: Path
) -> None:
    async with aclosing(client.stream(generate("stall", lines=50))) as frames:
        await anext(frames)
        first = await anext(frames)
        assert isinstance(first, bytes)
        assert first.count(b"\n") == 1, "the first line waits for no other"
        (tmp_path / "go").touch()
        await until((tmp_path / "answered").exists)
        second = await anext(frames)
        assert isinstance(second, bytes)
        assert second.count(b"\n") > 1


async def test_a_slow_consumer_does_not_hold_the_engine_up(
    client: EngineClient, tmp_path: Path
) -> None:
    size = BUFFER_BYTES - 100_000  # more than the kernel holds for a socket
    async with aclosing(client.stream(generate("huge", size=size))) as frames:
        await anext(frames)
        await until((tmp_path / "answered").exists)  # and nobody has taken a byte
        body = b""
        async for part in frames:
            assert isinstance(part, bytes)
            body += part
    assert len(json.loads(body.splitlines()[0])["response"]) == size


async def test_a_line_larger_than_the_buffer_passes(client: EngineClient) -> None:
    _, body, _ = await collect(client.stream(generate("huge", size=BUFFER_BYTES + 1)))
    assert len(json.loads(body.splitlines()[0])["response"]) == BUFFER_BYTES + 1


async def test_closing_closes_the_connection_at_once(client: EngineClient, tmp_path: Path) -> None:
    frames = client.stream(generate("endless"))
    await anext(frames)
    await anext(frames)
    await frames.aclose()
    await until((tmp_path / "client_left").exists)


async def test_cancelling_closes_the_connection_at_once(
    client: EngineClient, tmp_path: Path
) -> None:
    async def read() -> None:
        async with aclosing(client.stream(generate("endless"))) as frames:
            async for _ in frames:
                started.set()

    started = asyncio.Event()
    task = asyncio.ensure_future(read())
    await started.wait()
    task.cancel()
    await asyncio.wait([task])
    await until((tmp_path / "client_left").exists)


async def test_a_break_in_the_middle_is_a_death_after_the_whole_lines(
    client: EngineClient,
) -> None:
    async with aclosing(client.stream(generate("cut"))) as frames:
        await anext(frames)
        part = await anext(frames)
        assert isinstance(part, bytes)
        assert part.count(b"\n") == 1
        assert part.endswith(b"\n")
        with pytest.raises(EngineDied, match="unexpected EOF"):
            await anext(frames)


async def test_a_death_before_the_first_byte_comes_instead_of_a_head(
    client: EngineClient,
) -> None:
    with pytest.raises(EngineDied):
        await anext(client.stream(generate("die_before")))


async def test_bytes_go_through_as_they_are(client: EngineClient) -> None:
    body = b'{"a": 1.0,  "unknown": "\\u003c\xc3\xa9"}\x00'
    head, answer, _ = await collect(client.stream(Call("POST", "/echo", body, "r1")))
    assert head == Head(200, "application/octet-stream")
    assert answer == body


async def test_only_the_headers_that_matter(
    client: EngineClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    own = EngineClient(client.base_url)
    _, answer, _ = await collect(own.stream(Call("GET", "/headers", b"", "request-7")))
    await own.aclose()
    assert {name.lower(): value for name, value in json.loads(answer).items()} == {
        "host": client.base_url.removeprefix("http://"),
        "accept": "*/*",
        "accept-encoding": "identity",
        "content-type": "application/json",
        "user-agent": "rayllama",
        "x-request-id": "request-7",
    }


async def test_the_user_agent_is_the_clients_where_the_call_has_one(client: EngineClient) -> None:
    call = Call("GET", "/headers", b"", "r1", user_agent="GitHubCopilotChat/1 \xe9")
    _, answer, _ = await collect(client.stream(call))
    assert json.loads(answer)["User-Agent"].startswith("GitHubCopilotChat/1 ")


async def test_refusals_and_absence_have_names(client: EngineClient) -> None:
    assert await client.version() == "0.0.1"
    assert json.loads(await client.tags())["models"][0]["digest"] == "d1"
    with pytest.raises(EngineRefused, match="no such path") as refused:
        await client.loaded()
    assert refused.value.status == 404
    await client.aclose()
    for call in (client.stream(generate()), client.stream(generate("endless"))):
        with pytest.raises(EngineNotReady):
            await anext(call)


async def test_nobody_listens() -> None:
    client = EngineClient("http://127.0.0.1:1")
    with pytest.raises(EngineNotReady):
        await client.version()
    with pytest.raises(EngineNotReady):
        await client.load("m", "-1")
    with pytest.raises(EngineNotReady):
        await anext(client.stream(generate()))
    await client.aclose()


async def test_something_else_listens() -> None:
    async def hello(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
        writer.close()

    server = await asyncio.start_server(hello, "127.0.0.1", 0)
    client = EngineClient(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    with pytest.raises(EngineDied, match="does not answer as Ollama does"):
        await client.version()
    await client.aclose()
    server.close()
    await server.wait_closed()
