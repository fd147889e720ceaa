"""The feeder's ear: a socket to which ingresses tell what is hot."""

import asyncio
import logging
from hmac import compare_digest
from types import TracebackType
from typing import Self

from serve.edge.feeder import Feeder
from serve.edge.protocol import (
    MAX_FRAME_BYTES,
    MAX_HELLO_BYTES,
    VERSION,
    Address,
    Hello,
    Wanted,
    decode_told,
)
from serve.wire.framing import MALFORMED, Frames, frame

log = logging.getLogger("rayllama.edge")

HELLO_WITHIN_S = 5.0
_LOOK_EVERY_S = 0.5


class Listener:
    """Owns the socket and its connections. `host`: where ingresses of other nodes reach it too."""

    def __init__(self, feeder: Feeder, secret: bytes, host: str = "127.0.0.1") -> None:
        self._host = host
        self._feeder = feeder
        self._secret = secret
        self._server: asyncio.Server | None = None
        self._peers: set[asyncio.StreamWriter] = set()
        self._hearing: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._telling: asyncio.Task[None] | None = None
        self._wanted = 0

    async def __aenter__(self) -> Self:
        self._wanted = self._feeder.wanted_bytes
        self._server = await asyncio.start_server(self._greeted, self._host, 0)
        self._telling = asyncio.get_running_loop().create_task(self._tell())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._server is not None:
            self._server.close()
        if self._telling is not None:
            self._telling.cancel()
            await asyncio.wait([self._telling])
        for writer in self._hearing.values():
            writer.transport.abort()  # which ends who hears it
        await asyncio.gather(*self._hearing, return_exceptions=True)

    @property
    def address(self) -> Address:
        """Where it is, once it listens."""
        if self._server is None:
            raise RuntimeError("it doesn't listen yet")
        return self._host, int(self._server.sockets[0].getsockname()[1]), self._secret

    async def _greeted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._hearing[task] = writer
            task.add_done_callback(self._hearing.pop)
        try:
            await self._hear(reader, writer)
        except (OSError, TimeoutError) as fault:
            log.info("an ingress is gone: %s", type(fault).__name__)
        except MALFORMED as fault:
            log.warning("closed a connection that made no sense: %s", type(fault).__name__)
        finally:
            self._peers.discard(writer)
            writer.transport.abort()

    async def _hear(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        frames, is_greeted = Frames(MAX_HELLO_BYTES), False
        while True:
            async with asyncio.timeout(None if is_greeted else HELLO_WITHIN_S):
                data = await reader.read(1 << 16)
            if not data:
                return
            for one in frames.feed(data):
                told = decode_told(one)
                if not is_greeted:
                    self._admit(told)
                    is_greeted = True
                    frames.max_bytes = MAX_FRAME_BYTES
                    self._peers.add(writer)
                    writer.write(frame(Wanted(self._wanted)))
                elif isinstance(told, Hello):
                    raise ValueError("a second hello")
                else:
                    self._feeder.tell(told)

    def _admit(self, told: object) -> None:
        """Raises `ValueError` for a stranger."""
        is_known = (
            isinstance(told, Hello)
            and told.version == VERSION
            and compare_digest(told.secret, self._secret)
        )
        if not is_known:
            raise ValueError("no hello of ours")

    async def _tell(self) -> None:
        """How long an answer may be, whenever that changes."""
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            wanted = self._feeder.wanted_bytes
            if wanted != self._wanted:
                self._wanted = wanted
                for peer in self._peers:
                    peer.write(frame(Wanted(wanted)))
