"""In each ingress: what its near cache gives again and again is told to the node's feeder.

On the path of every near hit, so it only counts there. Counts last for a window. An answer that
stays hot without getting to the edge (there is none now, or it was refused) is told again after
twice as many hits, and so on.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Self

from serve.cache.near import NearReply
from serve.edge.key import edge_key
from serve.edge.protocol import MAX_FRAME_BYTES, VERSION, Address, Hello, Hot, decode_wanted
from serve.edge.value import kind_of
from serve.ports import Clock
from serve.wire.framing import MALFORMED, Frames, frame

log = logging.getLogger("rayllama.edge")

WINDOW_S = 10.0
_UNSENT_BYTES = 1 << 20
_AGAIN_S = 1.0
_CONNECT_WITHIN_S = 5.0
_RESOLVE_WITHIN_S = 60.0
"""The feeder's process may have to be started first."""

Header = tuple[bytes, bytes]
Resolve = Callable[[], Awaitable[Address]]
"""Where the feeder is now. May raise anything while nobody knows."""


class Scout:
    """Owns the connection to the feeder. `generation`: the near cache's own."""

    def __init__(
        self,
        resolve: Resolve,
        *,
        min_hits: int,
        lifetime_s: int,
        generation: Callable[[], int],
        clock: Clock,
    ) -> None:
        self._resolve = resolve
        self._min_hits = min_hits
        self._lifetime_s = lifetime_s
        self._generation = generation
        self._clock = clock
        self._seen: dict[bytes, int] = {}
        self._writer: asyncio.StreamWriter | None = None
        self._wanted_bytes = 0
        self._tasks: list[asyncio.Task[None]] = []
        self.told = 0

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._keep()), loop.create_task(self._forget())]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def is_hot(self, raw_key: bytes) -> bool:
        """One more near hit: is it one that makes it hot?"""
        count = self._seen.get(raw_key, 0) + 1
        self._seen[raw_key] = count
        times, more = divmod(count, self._min_hits)
        return not more and not times & (times - 1)

    def tell(
        self,
        asked: tuple[str, bytes, Sequence[Header], bytes],
        near: NearReply,
        tenant: str,
    ) -> None:
        """Tell the feeder of an answer, if it is one for the edge.

        `asked`: path, query, all headers as they came, and body.
        """
        writer = self._writer
        if writer is None or len(near.body) > self._wanted_bytes:
            return
        if writer.transport.get_write_buffer_size() > _UNSENT_BYTES:
            return
        key, kind = edge_key(*asked), kind_of(near.status, near.headers, near.body)
        if key is None or kind is None:
            return
        self.told += 1
        hot = Hot(
            key=key,
            kind=kind,
            body=near.body,
            shared_key=near.key,
            stored_at=near.stored_at,
            left_s=near.expires_at - self._clock(),
            lifetime_s=self._lifetime_s,
            model=near.model,
            digest=near.digest,
            fingerprint=near.fingerprint,
            generation=self._generation(),
            tenant=tenant,
            tokens=near.tokens,
            gpu_ns=near.gpu_ns,
            hits=self._min_hits,
        )
        writer.write(frame(hot))

    async def _forget(self) -> None:
        while True:
            await asyncio.sleep(WINDOW_S)
            self._seen.clear()

    async def _keep(self) -> None:
        while True:
            try:
                await self._stay()
            except MALFORMED as fault:
                log.warning("the feeder made no sense: %s", type(fault).__name__)
            except Exception as fault:  # noqa: BLE001  (last resort: the resolver may be Ray's)
                log.info("the edge's feeder is away: %s", type(fault).__name__)
            await asyncio.sleep(_AGAIN_S)

    async def _stay(self) -> None:
        async with asyncio.timeout(_RESOLVE_WITHIN_S):
            host, port, secret = await self._resolve()
        async with asyncio.timeout(_CONNECT_WITHIN_S):
            reader, writer = await asyncio.open_connection(host, port)
        frames = Frames(MAX_FRAME_BYTES)
        try:
            writer.write(frame(Hello(VERSION, secret)))
            self._writer = writer
            while data := await reader.read(4096):
                for wanted in map(decode_wanted, frames.feed(data)):
                    self._wanted_bytes = wanted.max_bytes
        finally:
            self._writer, self._wanted_bytes = None, 0
            writer.transport.abort()
