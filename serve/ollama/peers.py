"""What a replica asks of the other replicas' model stores."""

import asyncio
import secrets
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Protocol
from urllib.parse import quote

import msgspec

from serve.errors import EngineDied, EngineError, EngineRefused, RayllamaError
from serve.ollama.depot import PIECE
from serve.ollama.depot_routes import BLOBS, MANIFESTS, Listing
from serve.ports import Call, Failed, Frame, Head, Tail
from serve.wire.names import canonical

_ASK_S = 30.0  # for one answer of at most 4 MiB
_listing = msgspec.json.Decoder(Listing)


class Peers(Protocol):
    """The other replicas, as far as they may share models with this one."""

    async def peers(self) -> Sequence[str]:
        """The names (`Member.name`) of those that run, without this one, of the same kind of
        engine. Waits until they are known; none if there are none. May raise `RayllamaError`."""
        ...

    def stream(self, call: Call) -> AsyncGenerator[Frame, None]:
        """As `serve.ports.Fleet`: the answer of the replica that the call names."""
        ...


class Stock(msgspec.Struct, frozen=True):
    """What a peer has: canonical name → digest of the manifest, in hex."""

    models: Mapping[str, str]
    is_settled: bool


class PeerStores:
    """The peers' stores. Raises `EngineError` where one doesn't answer as it should."""

    def __init__(self, peers: Peers) -> None:
        self._peers = peers

    async def stocks(self) -> tuple[dict[str, Stock], int]:
        """What those have who answer, and how many didn't."""
        names = list(await self._peers.peers())
        answers = await asyncio.gather(*map(self._stock, names), return_exceptions=True)
        stocks: dict[str, Stock] = {}
        for name, answer in zip(names, answers, strict=True):
            if isinstance(answer, Stock):
                stocks[name] = answer
            elif not isinstance(answer, RayllamaError):
                raise answer
        return stocks, len(names) - len(stocks)

    async def _stock(self, peer: str) -> Stock:
        try:
            listing = _listing.decode(await self._ask(peer, MANIFESTS))
        except msgspec.DecodeError as exc:
            raise EngineDied(f"{peer} doesn't say which models it has") from exc
        models = {canonical(each.name): each.digest for each in listing.models}
        return Stock(models, listing.is_settled)

    async def manifest(self, peer: str, name: str) -> bytes:
        """The bytes of a manifest."""
        return await self._ask(peer, f"{MANIFESTS}/{quote(name)}")

    async def piece(self, peer: str, digest: str, at: int, total: int) -> bytes:
        """The bytes of a blob from `at` on, as many as one call may bring."""
        size = min(PIECE, total - at)
        data = await self._ask(peer, f"{BLOBS}{digest}?at={at}&size={size}")
        if len(data) != size:
            raise EngineDied(f"{peer} has another size of {digest[:19]}")
        return data

    async def _ask(self, peer: str, path: str) -> bytes:
        call = Call("GET", path, b"", f"fetch-{secrets.token_hex(8)}", replica=peer)
        try:
            async with asyncio.timeout(_ASK_S):
                return await self._whole(call)
        except TimeoutError:
            raise EngineDied(f"{peer} didn't answer within {_ASK_S:g} s") from None

    async def _whole(self, call: Call) -> bytes:
        head, parts, is_whole = Head(500, ""), [], False
        async with aclosing(self._peers.stream(call)) as frames:
            async for frame in frames:
                if isinstance(frame, Head):
                    head = frame
                elif isinstance(frame, bytes):
                    parts.append(frame)
                elif isinstance(frame, Failed):
                    raise EngineDied(frame.message)
                is_whole = isinstance(frame, Tail)
        body = b"".join(parts)
        if head.status != 200:
            raise EngineRefused(head.status, body.decode("utf-8", "replace")[:200])
        if not is_whole:
            raise EngineError(f"the answer of {call.replica} was cut")
        return body
