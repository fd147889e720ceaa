"""Between an engine's connection and its consumer: a bounded buffer that one task fills.

The reader is a task of its own, so that the engine is read at its pace and not at the consumer's.
The buffer owns that task: leaving its `async with` cancels it and waits until the connection is
closed. A failure of the reader is raised to the consumer after the bytes that came before it.
"""

import asyncio
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self

from serve.errors import EngineDied
from serve.ports import Head


class Buffer:
    """One answer on its way. One reader, one consumer, one event loop."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._head: Head | None = None
        self._parts: list[bytes] = []
        self._size = 0
        self._unfinished: list[bytes] = []
        self._some = asyncio.Event()
        self._room = asyncio.Event()
        self._reader: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.wait([self._reader])

    def fill(self, reader: Coroutine[Any, Any, None]) -> None:
        """Run what calls `begin` and `put`; its end is the answer's end."""
        self._reader = asyncio.get_running_loop().create_task(reader)
        self._reader.add_done_callback(self._ended)

    def begin(self, head: Head) -> None:
        """The reader knows the head. The consumer sees it with the first bytes, or at the end."""
        self._head = head

    def is_full_with(self, data: bytes) -> bool:
        """Whether `put` would wait for the consumer."""
        return self._size + len(data) >= self._max_bytes

    async def put(self, data: bytes) -> None:
        """The reader has some bytes. Waits only while the buffer is over its bound."""
        self._parts.append(data)
        self._size += len(data)
        self._some.set()
        if self._size >= self._max_bytes:
            self._room.clear()
            await self._room.wait()

    async def head(self) -> Head:
        """The head, once the first bytes are there. Raises what the reader raised before them."""
        await self._some.wait()
        if not self._parts:
            self._raise_failure()
        if self._head is None:
            raise EngineDied
        return self._head

    async def take(self, *, by_lines: bool) -> bytes:
        """All that has piled up, at least a byte; b"" at the end. Raises what the reader raised.

        `by_lines`: only up to the last newline; the rest waits for its own.
        """
        while True:
            await self._some.wait()
            is_end = self._reader is None or self._reader.done()
            if not is_end:
                self._some.clear()
            data = self._drain()
            if by_lines:
                data = self._whole_lines(data)
            if data:
                return data
            if is_end:
                self._raise_failure()
                rest = b"".join(self._unfinished)
                self._unfinished.clear()
                return rest

    def _drain(self) -> bytes:
        data = b"".join(self._parts)
        self._parts.clear()
        self._size = 0
        self._room.set()
        return data

    def _whole_lines(self, data: bytes) -> bytes:
        cut = data.rfind(b"\n") + 1
        if cut == 0:
            if data:
                self._unfinished.append(data)
            return b""
        whole = b"".join((*self._unfinished, data[:cut]))
        self._unfinished = [data[cut:]] if cut < len(data) else []
        return whole

    def _ended(self, reader: asyncio.Task[None]) -> None:
        if not reader.cancelled():
            reader.exception()  # seen, even if the consumer has left and never asks
        self._some.set()

    def _raise_failure(self) -> None:
        if self._reader is not None and self._reader.done():
            error = self._reader.exception()
            if error is not None:
                raise error
