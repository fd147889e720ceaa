"""One model into this node's store: from a replica that has it, else by the engine from a registry.

From a replica it comes in pieces of at most 4 MiB, each asked for and written before the next; a
piece that doesn't come is asked of the next one who has it. What a kill leaves is gone on from.
From a registry the engine pulls it, as `ollama pull` would: from `inference.mirror` if there is
one, then under the mirror's name first, which is given up for the model's own.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing

import msgspec

from serve.errors import EngineError, EngineRefused, NotFound, RayllamaError
from serve.ollama.catalogue import parse_tags
from serve.ollama.client import EngineClient
from serve.ollama.depot import Depot, Layer, blobs_of, sha256_of
from serve.ollama.growing import Growing
from serve.ollama.peers import PeerStores, Stock
from serve.ollama.progress import Progress
from serve.ports import Call, Head
from serve.wire.names import DEFAULT_HOST, DEFAULT_NAMESPACE, canonical, parse

_TRIES = 3
_RESERVE = 64 << 20  # bytes that a fetch leaves free on the disk
_log = logging.getLogger(__name__)


class _Line(msgspec.Struct):
    """One of `/api/pull`."""

    status: str = ""
    digest: str = ""
    total: int = 0
    completed: int = 0
    error: str = ""


_line = msgspec.json.Decoder(_Line)


class Fetcher:
    """Fetches into one store. `stores`: None where nobody else can be asked."""

    def __init__(self, depot: Depot | None, stores: PeerStores | None, mirror: str) -> None:
        self._depot = depot
        self._stores = stores
        self._mirror = mirror

    async def fetch(self, client: EngineClient, model: str, progress: Progress) -> None:
        """The model is there when this returns. Raises `EngineError` with what is wrong."""
        holders = await self._holders(model)
        if holders:
            try:
                await self.copy(model, holders, progress)
            except (RayllamaError, OSError) as error:
                _log.warning("%s could not be copied from another replica: %s", model, error)
            else:
                return
        await self._pull(client, model, progress)

    async def _holders(self, model: str) -> Mapping[str, str]:
        """Who has the model, and which manifest: that which most of them have."""
        if self._stores is None or self._depot is None:
            return {}
        try:
            stocks, _ = await self._stores.stocks()
        except RayllamaError as error:
            _log.warning("the other replicas can't be asked for models: %s", error)
            return {}
        return agreed(stocks, canonical(model))

    async def copy(self, model: str, holders: Mapping[str, str], progress: Progress) -> None:
        """From replicas that have it, by name and the digest of its manifest.

        Raises `EngineError`, `ClientError` or `OSError`.
        """
        depot, stores = self._depot, self._stores
        if depot is None or stores is None:
            raise EngineError("there is no store to copy to")
        data = await self._manifest(stores, model, holders)
        for _ in range(_TRIES):  # a blob may be swept while nothing names it yet
            await self._blobs(stores, depot, data, list(holders), progress)
            if not await asyncio.to_thread(depot.put_manifest, model, data):
                progress.see("success")
                return
        raise EngineError(f"blobs of {model} vanish as soon as they are there")

    async def _manifest(self, stores: PeerStores, model: str, holders: Mapping[str, str]) -> bytes:
        trouble: RayllamaError = NotFound(f"nobody has {model}")
        for peer, digest in holders.items():
            try:
                data = await stores.manifest(peer, model)
            except RayllamaError as error:
                trouble = error
                continue
            if sha256_of(data)[7:] == digest:
                return data
        raise trouble

    async def _blobs(
        self,
        stores: PeerStores,
        depot: Depot,
        manifest: bytes,
        holders: Sequence[str],
        progress: Progress,
    ) -> None:
        missing = await asyncio.to_thread(depot.missing, manifest)
        for layer in blobs_of(manifest):
            done = 0 if layer in missing else layer.size
            progress.see("copying", layer.digest, layer.size, done)
        await asyncio.to_thread(_check_room, depot, missing)
        for layer in missing:
            await self._blob(stores, depot, layer, holders, progress)

    async def _blob(
        self,
        stores: PeerStores,
        depot: Depot,
        layer: Layer,
        holders: Sequence[str],
        progress: Progress,
    ) -> None:
        growing = Growing(await asyncio.to_thread(depot.unfinished, "fetch", layer.digest))
        peers = list(holders)
        while await asyncio.to_thread(depot.blob, layer.digest) is None:
            at = await asyncio.to_thread(growing.size)
            progress.see("copying", layer.digest, layer.size, at)
            if at < layer.size:
                try:
                    data = await stores.piece(peers[0], layer.digest, at, layer.size)
                except RayllamaError:
                    del peers[0]
                    if not peers:
                        raise
                    continue
                await asyncio.to_thread(growing.append, at, data)
            else:
                if at == 0:  # a blob of no bytes at all is one too
                    await asyncio.to_thread(growing.append, 0, b"")
                await self._settled(growing, depot, layer)
        progress.see("copying", layer.digest, layer.size, layer.size)

    async def _settled(self, growing: Growing, depot: Depot, layer: Layer) -> None:
        found = await asyncio.to_thread(growing.settle, depot, layer.digest)
        if found and found != layer.digest:
            raise EngineError(f"digest mismatch, want {layer.digest}, got {found}")

    async def _pull(self, client: EngineClient, model: str, progress: Progress) -> None:
        there = mirrored(self._mirror, model)
        if there is None:
            await _pulled(client, model, progress, insecure=False)
            return
        name, is_insecure = there
        had_it = canonical(name) in parse_tags(await client.tags())
        await _pulled(client, name, progress, insecure=is_insecure)
        await _done(client, "POST", "/api/copy", {"source": name, "destination": model})
        if not had_it:
            await _done(client, "DELETE", "/api/delete", {"model": name})


def _check_room(depot: Depot, missing: Sequence[Layer]) -> None:
    """Before anything comes: a disk that is full of half a model is of no use to anybody."""
    here = [Growing(depot.unfinished("fetch", layer.digest)).size() for layer in missing]
    wanted = sum(layer.size for layer in missing) - sum(here)
    if missing and wanted + _RESERVE > depot.free():
        raise EngineError(f"no space left: {wanted} bytes are wanted in {depot.root}")


def agreed(stocks: Mapping[str, Stock], name: str) -> dict[str, str]:
    """Who has the model as most have it, with the digest; of equals, the smallest digest."""
    having = {peer: stock.models[name] for peer, stock in stocks.items() if name in stock.models}
    digests = sorted(having.values())
    best = max(digests, key=digests.count, default="")
    return {peer: digest for peer, digest in having.items() if digest == best}


def mirrored(mirror: str, model: str) -> tuple[str, bool] | None:
    """A model's name at the mirror, and whether that is plain HTTP; None for one that isn't there.

    A mirror stands for the default registry only. `host/folder` has the models of the namespace
    `library` in that folder, since a name has no room for more.
    """
    parts = parse(model)
    if not mirror or parts.host.lower() != DEFAULT_HOST:
        return None
    is_insecure = mirror.startswith("http://")
    host, _, folder = mirror.rpartition("://")[2].strip("/").partition("/")
    library = parts.namespace.lower() == DEFAULT_NAMESPACE
    namespace = folder if folder and library else parts.namespace
    scheme = "http://" if is_insecure else ""
    return f"{scheme}{host}/{namespace}/{parts.model}:{parts.tag}", is_insecure


async def _pulled(client: EngineClient, name: str, progress: Progress, *, insecure: bool) -> None:
    """The engine's own pull. Raises `EngineError` in its words."""
    body = msgspec.json.encode({"model": name, "insecure": insecure, "stream": True})
    is_there = False
    async with aclosing(_lines(client, Call("POST", "/api/pull", body, "fetch"))) as lines:
        async for line in lines:
            if line.error:
                raise EngineError(line.error)
            status = "pulling" if line.digest else line.status
            progress.see(status, line.digest, line.total, line.completed)
            is_there = line.status == "success"
    if not is_there:
        raise EngineError("the pull ended without a word")


async def _lines(client: EngineClient, call: Call) -> AsyncGenerator[_Line, None]:
    status = 500
    async with aclosing(client.stream(call)) as frames:
        async for frame in frames:
            if isinstance(frame, Head):
                status = frame.status
                continue
            for text in frame.splitlines():
                line = _decoded(text)
                if status >= 400:
                    raise EngineRefused(status, line.error)
                yield line


async def _done(client: EngineClient, verb: str, path: str, body: Mapping[str, str]) -> None:
    call = Call(verb, path, msgspec.json.encode(body), "fetch")
    status, answer = 500, b""
    async with aclosing(client.stream(call)) as frames:
        async for frame in frames:
            if isinstance(frame, Head):
                status = frame.status
            else:
                answer += frame
    if status != 200:
        raise EngineRefused(status, _decoded(answer).error or f"{path} failed")


def _decoded(text: bytes) -> _Line:
    try:
        return _line.decode(text)
    except msgspec.DecodeError:
        return _Line(error=text.decode("utf-8", "replace")[:200])
