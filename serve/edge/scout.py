"""In each ingress: what its near cache gives again and again is told to the nodes' feeders, to all
of them, since a request may come to any node's proxy.

On the path of every near hit, so it only counts there. Counts last for a window. An answer that
stays hot without getting to the edge (there is none now, or it was refused) is told again after
twice as many hits, and so on.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Sequence
from functools import partial
from types import TracebackType
from typing import Protocol, Self

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
_LOOK_EVERY_S = 5.0
_CONNECT_WITHIN_S = 5.0
_RESOLVE_WITHIN_S = 60.0
"""The feeder's process may have to be started first."""

Header = tuple[bytes, bytes]


class Edges(Protocol):
    """The nodes' feeders. Both methods may raise anything while nobody knows."""

    async def nodes(self) -> Collection[str]:
        """The nodes that have a proxy."""
        ...

    async def address(self, node: str) -> Address | None:
        """Where a node's feeder listens, when it is its turn; None: that proxy has no edge."""
        ...


class Scout:
    """Owns the connections to the feeders. `generation`: the near cache's own."""

    def __init__(
        self,
        edges: Edges,
        *,
        min_hits: int,
        lifetime_s: int,
        generation: Callable[[], int],
        clock: Clock,
    ) -> None:
        self._edges = edges
        self._min_hits = min_hits
        self._lifetime_s = lifetime_s
        self._generation = generation
        self._clock = clock
        self._seen: dict[bytes, int] = {}
        self._lines: dict[str, Line] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._has_looked = asyncio.Event()
        self.told = 0

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._look()), loop.create_task(self._forget())]
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
        for line in self._lines.values():
            await line.close()

    async def settled(self, within_s: float) -> bool:
        """Has every node's feeder the turn, or no edge? Returns False if not within so long.

        Then nothing that an earlier version has put there is given any more.
        """
        try:
            async with asyncio.timeout(within_s):
                await self._has_looked.wait()
                for line in list(self._lines.values()):
                    await line.is_settled.wait()
        except TimeoutError:
            return False
        return True

    @property
    def wanted_bytes(self) -> int:
        """How long an answer may be that some feeder wants."""
        return max((line.wanted_bytes for line in self._lines.values()), default=0)

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
        """Tell the feeders of an answer, if it is one for the edge.

        `asked`: path, query, all headers as they came, and body.
        """
        lines = [line for line in self._lines.values() if line.wants(len(near.body))]
        if not lines:
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
        told = frame(hot)
        for line in lines:
            line.write(told)

    async def _forget(self) -> None:
        while True:
            await asyncio.sleep(WINDOW_S)
            self._seen.clear()

    async def _look(self) -> None:
        """Which nodes there are, again and again."""
        while True:
            try:
                nodes = set(await self._edges.nodes())
                for node in self._lines.keys() - nodes:
                    await self._lines.pop(node).close()
                for node in nodes - self._lines.keys():
                    self._lines[node] = Line(partial(self._edges.address, node))
                self._has_looked.set()
            except Exception as fault:  # noqa: BLE001  (last resort: Ray's own)
                log.info("the nodes are not known: %s", type(fault).__name__)
            await asyncio.sleep(_LOOK_EVERY_S)


class Line:
    """The connection to one node's feeder, and the task that keeps it."""

    def __init__(self, resolve: Callable[[], Awaitable[Address | None]]) -> None:
        self._resolve = resolve
        self._writer: asyncio.StreamWriter | None = None
        self.wanted_bytes = 0
        self.is_settled = asyncio.Event()
        self._task = asyncio.get_running_loop().create_task(self._keep())

    async def close(self) -> None:
        """End it."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def wants(self, size: int) -> bool:
        """Is an answer of so many bytes wanted, and read?"""
        writer = self._writer
        return (
            writer is not None
            and size <= self.wanted_bytes
            and writer.transport.get_write_buffer_size() <= _UNSENT_BYTES
        )

    def write(self, told: bytes) -> None:
        """Send a frame, if there is a connection."""
        if self._writer is not None:
            self._writer.write(told)

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
            address = await self._resolve()
        self.is_settled.set()
        if address is None:
            await asyncio.sleep(_LOOK_EVERY_S)
            return
        host, port, secret = address
        async with asyncio.timeout(_CONNECT_WITHIN_S):
            reader, writer = await asyncio.open_connection(host, port)
        frames = Frames(MAX_FRAME_BYTES)
        try:
            writer.write(frame(Hello(VERSION, secret)))
            self._writer = writer
            while data := await reader.read(4096):
                for wanted in map(decode_wanted, frames.feed(data)):
                    self.wanted_bytes = wanted.max_bytes
        finally:
            self._writer, self.wanted_bytes = None, 0
            writer.transport.abort()
