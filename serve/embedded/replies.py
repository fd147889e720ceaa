"""Answers, and how Ollama frames them.

Go sends a Content-Length for what fits into its buffer and chunks what doesn't; an error in a
stream's place, before its first line, is chunked JSON without a charset.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, MutableMapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from serve.errors import EngineError, RayllamaError
from serve.wire.gojson import dumps

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Header = tuple[bytes, bytes]
Line = dict[str, Any]

JSON = b"application/json; charset=utf-8"
BARE_JSON = b"application/json"
_NDJSON = b"application/x-ndjson"
_GO_BUFFER = 2048


@dataclass(frozen=True, slots=True)
class Whole:
    """An answer in one piece; `headers` beside its type and length."""

    status: int
    body: bytes = b""
    content_type: bytes = b""
    headers: tuple[Header, ...] = ()

    async def send(self, send: Send) -> None:
        """Sends it."""
        headers = [*self.headers]
        if self.content_type:
            headers.append((b"content-type", self.content_type))
        if len(self.body) <= _GO_BUFFER and self.status != 204:
            headers.append((b"content-length", str(len(self.body)).encode()))
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": self.body})


@dataclass(frozen=True, slots=True)
class Streamed:
    """An answer in lines, each sent as it comes."""

    lines: AsyncGenerator[Line, None]
    headers: tuple[Header, ...] = ()

    async def send(self, send: Send) -> None:
        """Sends the lines; the status waits for the first, an error after it is one more line."""
        started = False
        async with aclosing(self.lines) as lines:
            try:
                async for line in lines:
                    if not started:
                        await self._start(send, 200, _NDJSON)
                        started = True
                    await _more(send, dumps(line) + b"\n")
            except RayllamaError as error:
                if started:
                    await _more(send, error_body(error) + b"\n")
                else:
                    await self._start(send, error.status, BARE_JSON)
                    await _more(send, error_body(error))
                started = True
        if not started:
            await self._start(send, 200, _NDJSON)
        await send({"type": "http.response.body", "body": b""})

    async def _start(self, send: Send, status: int, content_type: bytes) -> None:
        headers = [*self.headers, (b"content-type", content_type)]
        await send({"type": "http.response.start", "status": status, "headers": headers})


Reply = Whole | Streamed


def json_reply(value: object, status: int = 200) -> Whole:
    """A JSON answer."""
    return Whole(status, dumps(value), JSON)


def error_reply(error: RayllamaError) -> Whole:
    """An error as the whole answer."""
    return Whole(error.status, error_body(error), JSON)


def error_body(error: RayllamaError) -> bytes:
    """Ollama's error object."""
    return dumps({"error": str(error)})


async def answer(
    lines: AsyncGenerator[Line, None], *, stream: bool, join: Callable[[Iterable[Line]], Line]
) -> Reply:
    """The lines as a stream, or joined into one object. Raises what the lines raise if joined."""
    if stream:
        return Streamed(lines)
    async with aclosing(lines):
        return json_reply(join([line async for line in lines]))


async def progress(lines: AsyncGenerator[Line, None], *, stream: bool) -> Reply:
    """The lines of work on models as a stream, or only the last; an error is one as well."""
    told = _told(lines)
    if stream:
        return Streamed(told)
    last: Line = {}
    try:
        async with aclosing(told):
            async for line in told:
                last = line
    except RayllamaError as error:
        return Whole(error.status, error_body(error), BARE_JSON)
    return Whole(200, dumps(last), BARE_JSON)


async def _told(lines: AsyncGenerator[Line, None]) -> AsyncGenerator[Line, None]:
    """The lines; a disk that fails is an error that a client may read."""
    async with aclosing(lines):
        try:
            async for line in lines:
                yield line
        except OSError as error:
            raise EngineError(f"{error.filename or 'disk'}: {error.strerror}") from None


async def _more(send: Send, body: bytes) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": True})
