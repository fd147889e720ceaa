"""Answers as ASGI messages."""

from collections.abc import Iterable, Sequence

from starlette.types import Message, Send

Header = tuple[bytes, bytes]

CACHE_HEADER = b"x-rayllama-cache"


class Reply:
    """A whole answer. `length` is False for a stream's replay, which has none, as live ones."""

    __slots__ = ("body", "headers", "length", "status")

    def __init__(
        self,
        status: int,
        content_type: bytes,
        body: bytes,
        *,
        headers: Iterable[Header] = (),
        length: bool = True,
    ) -> None:
        self.status = status
        self.body = body
        self.length = length
        self.headers: list[Header] = list(headers)
        if content_type:
            self.headers.insert(0, (b"content-type", content_type))
        if length:
            self.headers.append((b"content-length", b"%d" % len(body)))

    async def send(self, send: Send, *, more: Sequence[Header] = (), head: bool = False) -> None:
        """Send it, with `more` headers; with `head`, without the body (a HEAD request)."""
        await send(
            {
                "type": "http.response.start",
                "status": self.status,
                "headers": [*self.headers, *more] if more else self.headers,
            }
        )
        await send({"type": "http.response.body", "body": b"" if head else self.body})


class Begun:
    """A `send` that knows whether an answer has begun, so that no second one is sent."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.has_begun = False

    async def __call__(self, message: Message) -> None:
        """Pass a message on."""
        self.has_begun = True
        await self._send(message)


async def start(send: Send, status: int, headers: Sequence[Header]) -> None:
    """Commit a status and headers for a stream."""
    await send({"type": "http.response.start", "status": status, "headers": list(headers)})


async def part(send: Send, body: bytes) -> None:
    """Send a part of a stream at once."""
    await send({"type": "http.response.body", "body": body, "more_body": True})


async def end(send: Send, body: bytes = b"") -> None:
    """Send the last part of a stream."""
    await send({"type": "http.response.body", "body": body})
