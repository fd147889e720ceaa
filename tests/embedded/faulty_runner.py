"""A runner's HTTP that does on demand what llama.cpp doesn't: dribble, or stop in the middle."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence

from serve.embedded.llama import Llama

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


END = chunk(b"")


class FaultyRunner:
    """Answers every request with `pieces`, then closes; `left` is set if the client does first."""

    def __init__(self, pieces: Sequence[bytes], *, stays: bool = False) -> None:
        self._pieces = pieces
        self._stays = stays
        self.left = asyncio.Event()
        self.request = b""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.request = head
        for piece in self._pieces:
            writer.write(piece)
            await writer.drain()
        if self._stays:
            while await reader.read(1 << 16):
                pass
            self.left.set()
        writer.close()


@contextlib.asynccontextmanager
async def faulty(*pieces: bytes, stays: bool = False) -> AsyncGenerator[tuple[FaultyRunner, Llama]]:
    runner = FaultyRunner(pieces, stays=stays)
    server = await asyncio.start_server(runner.serve, "127.0.0.1", 0)
    async with server:
        yield runner, Llama(server.sockets[0].getsockname()[1], "key")
