"""A runner's HTTP: one short connection a call, parsed by h11.

Closing the connection is how llama.cpp learns that nobody wants the answer any more: it stops at
the next token. Errors are Ollama's words for them.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import Any

import h11
import msgspec

from serve.errors import RUNNER_GONE, EngineDied, EngineRefused

_READ = 1 << 16
_COMMENT, _DATA, _DONE = b":", b"data: ", b"[DONE]"
_LONGEST_LINE = 8_000_000


class Llama:
    """The HTTP API of the runner at `port`, opened by `key`.

    `broken` is set by the first answer that ends in the middle: the process must be gone, even if
    the kernel hasn't said so yet.
    """

    def __init__(self, port: int, key: str) -> None:
        self._port = port
        self.broken = False
        self._headers = [
            ("Host", f"127.0.0.1:{port}"),
            ("Authorization", f"Bearer {key}"),
            ("Content-Type", "application/json"),
            ("Connection", "close"),
        ]

    async def ask(self, path: str, body: object = None) -> Any:
        """The decoded answer to a POST (a GET without `body`).

        Raises `EngineRefused` with the runner's own error text, `EngineDied` if it is gone.
        """
        async with contextlib.aclosing(self._exchange(path, body)) as parts:
            return msgspec.json.decode(b"".join([part async for part in parts]))

    async def events(self, path: str, body: object) -> AsyncGenerator[dict[str, Any], None]:
        """The JSON of each server-sent event, as it comes. Raises as `ask` does."""
        pending = b""
        async with contextlib.aclosing(self._exchange(path, body)) as parts:
            async for part in parts:
                *lines, pending = (pending + part).split(b"\n")
                if len(pending) > _LONGEST_LINE:
                    raise EngineDied("llama-server response stream event exceeded 8 MB limit")
                for line in lines:
                    event = line.removeprefix(_DATA)
                    if event and not event.startswith(_COMMENT) and event != _DONE:
                        yield msgspec.json.decode(event)

    async def _exchange(self, path: str, body: object) -> AsyncGenerator[bytes, None]:
        """The pieces of a good answer's body."""
        connection = h11.Connection(h11.CLIENT)
        writer = None
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            writer.write(self._request(connection, path, body))
            status = await self._status(connection, reader)
            if status >= 400:
                text = b"".join([part async for part in _body(connection, reader)])
                raise EngineRefused(status, text.decode("utf-8", "replace").strip())
            async for part in _body(connection, reader):
                yield part
        except ConnectionRefusedError:
            self.broken = True
            raise EngineDied(RUNNER_GONE) from None
        except EngineDied:
            self.broken = True
            raise
        finally:
            if writer is not None:
                writer.close()

    def _request(self, connection: h11.Connection, path: str, body: object) -> bytes:
        data = b"" if body is None else msgspec.json.encode(body)
        request = h11.Request(
            method="GET" if body is None else "POST",
            target=path,
            headers=[*self._headers, ("Content-Length", str(len(data)))],
        )
        head = connection.send(request) or b""
        return (
            head
            + (connection.send(h11.Data(data)) or b"")
            + (connection.send(h11.EndOfMessage()) or b"")
        )

    async def _status(self, connection: h11.Connection, reader: asyncio.StreamReader) -> int:
        """The status of the answer; a runner that goes away before it has said nothing."""
        try:
            event = await _next(connection, reader)
        except EngineDied:
            raise EngineDied(RUNNER_GONE) from None
        if not isinstance(event, h11.Response):
            raise EngineDied(RUNNER_GONE)
        return event.status_code


async def _body(
    connection: h11.Connection, reader: asyncio.StreamReader
) -> AsyncGenerator[bytes, None]:
    while True:
        event = await _next(connection, reader)
        if not isinstance(event, h11.Data):
            return
        yield bytes(event.data)


async def _next(connection: h11.Connection, reader: asyncio.StreamReader) -> h11.Event | type:
    """The next event; `EngineDied` where the connection ends in the middle."""
    while True:
        try:
            event = connection.next_event()
            if event is not h11.NEED_DATA:
                return event
            connection.receive_data(await reader.read(_READ))
        except (h11.RemoteProtocolError, ConnectionError):
            raise EngineDied from None
