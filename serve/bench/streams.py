"""Many streamed answers read at once, each as it comes, and left in the middle where that is asked.

Plain sockets, like `serve.bench.wire`: a client library would add its own.
"""

import asyncio
import json
from collections.abc import Mapping
from contextlib import suppress
from time import perf_counter
from typing import Any
from urllib.parse import urlsplit

from serve.bench.wire import parse_head, unchunked

_HEAD_END = b"\r\n\r\n"
_LAST_CHUNK = b"0\r\n\r\n"


class Stream:
    """One request on a connection of its own. `first_at`: when its first line came."""

    def __init__(self, url: str, headers: Mapping[str, str], body: bytes) -> None:
        self._url = urlsplit(url)
        extra = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        head = f"POST /api/generate HTTP/1.1\r\nHost: {self._url.netloc}\r\n{extra}"
        self._request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
        self._data = b""
        self.first_at = 0.0
        self.is_done = False
        self._first = asyncio.Event()
        self._writer: asyncio.StreamWriter | None = None

    async def connect(self) -> None:
        """Raises `OSError`."""
        self._reader, self._writer = await asyncio.open_connection(
            self._url.hostname, self._url.port or 80
        )

    async def run(self) -> None:
        """Ask, and read to the end. Raises `OSError` if the connection ends before."""
        if self._writer is None:
            raise OSError("not connected")
        self._writer.write(self._request)
        while not self._is_whole():
            data = await self._reader.read(1 << 16)
            if not data:
                raise OSError("the connection was closed in the middle of an answer")
            self._data += data
            if not self.first_at and self._data.partition(_HEAD_END)[2]:
                self.first_at = perf_counter()
                self._first.set()
        self.is_done = True

    async def begun(self) -> None:
        """Returns when the first line has come."""
        await self._first.wait()

    async def close(self) -> None:
        """Close the connection, if there is one, and wait until it is."""
        if self._writer is not None:
            self._writer.close()
            with suppress(OSError):
                await self._writer.wait_closed()

    def leave(self) -> None:
        """Close the connection at once."""
        if self._writer is not None:
            self._writer.transport.abort()

    @property
    def verdict(self) -> str:
        """What Rayllama's cache said; "" before the first line."""
        return self.header("x-rayllama-cache")

    def header(self, name: str) -> str:
        """One of the answer's headers, by its name in lower case; "" before the head has come."""
        head, end, _ = self._data.partition(_HEAD_END)
        return parse_head(head)[1].get(name, "") if end else ""

    @property
    def status(self) -> int:
        """The answer's status; 0 before it has come."""
        head, end, _ = self._data.partition(_HEAD_END)
        return parse_head(head)[0] if end else 0

    @property
    def body(self) -> bytes:
        """All that has come after the head, in its chunks."""
        return self._data.partition(_HEAD_END)[2]

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The answer's lines, of a stream that is done."""
        body = unchunked(self._data.partition(_HEAD_END)[2])
        return [json.loads(line) for line in body.splitlines()]

    @property
    def born(self) -> str:
        """When its first line was generated: to the nanosecond, so that it names a generation."""
        data = self._data.partition(_HEAD_END)[2].partition(b"\r\n")[2]
        return str(json.loads(data.partition(b"\n")[0]).get("created_at", ""))

    def _is_whole(self) -> bool:
        return self._data.endswith(_LAST_CHUNK) or (
            # A replay from memory, or an error: one piece with its length.
            b"\r\ncontent-length: " in self._data.partition(_HEAD_END)[0].lower()
            and bool(self._data.partition(_HEAD_END)[2])
        )
