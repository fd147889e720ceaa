"""POST /api/pull: a model from a registry into the store."""

import contextlib
import time
from collections.abc import AsyncGenerator

from serve.embedded.engine import Engine, Request
from serve.embedded.layers import on_disk
from serve.embedded.manifests import Layer, Manifest
from serve.embedded.registry import MismatchError, Registry
from serve.embedded.replies import Line, Reply, progress
from serve.errors import BadRequest, EngineError
from serve.wire.names import INVALID, Name, canonical, parse
from serve.wire.native import decode
from serve.wire.orders import PullRequest

_EVERY_S = 0.06
_VERIFYING = {"status": "verifying sha256 digest"}


async def pull(engine: Engine, request: Request) -> Reply:
    """Fetches a model, with progress. Raises `BadRequest` for a name that is none."""
    asked = decode(request.body, PullRequest)
    try:
        parse(asked.target)
    except BadRequest:
        raise BadRequest(INVALID) from None
    lines = pulled(engine, asked.target, insecure=asked.insecure)
    return await progress(lines, stream=asked.stream is not False)


async def pulled(engine: Engine, name: str, *, insecure: bool) -> AsyncGenerator[Line, None]:
    """The lines of a pull; the model is there after the last. Raises `EngineError`, `OSError`."""
    yield {"status": "pulling manifest"}
    async with Registry.open(parse(name), insecure=insecure) as registry:
        data, manifest = await _manifest(registry, parse(name))
        try:
            for layer in manifest.blobs:
                loading = _layer(engine, registry, layer)
                async with contextlib.aclosing(loading):
                    async for line in loading:
                        yield line
        except MismatchError:
            yield _VERIFYING
            raise
    yield _VERIFYING
    yield {"status": "writing manifest"}
    await on_disk(engine.shelf.library.manifests.write, canonical(name), data)
    yield {"status": "success"}


async def _manifest(registry: Registry, name: Name) -> tuple[bytes, Manifest]:
    try:
        data = await registry.manifest(name.tag)
        return data, Manifest.read(data)
    except (EngineError, ValueError) as error:
        raise EngineError(f"pull model manifest: {error}") from None


async def _layer(engine: Engine, registry: Registry, layer: Layer) -> AsyncGenerator[Line, None]:
    """How far a layer is: as often as somebody may want to look, and at its end."""
    told = 0.0
    sizes = registry.download(engine.shelf.library.blobs, layer)
    async with contextlib.aclosing(sizes):
        async for done in sizes:
            now = time.monotonic()
            if done == layer.size or (done and now - told >= _EVERY_S):
                told = now
                yield {
                    "status": f"pulling {layer.digest[7:19]}",
                    "digest": layer.digest,
                    "total": layer.size,
                    "completed": done,
                }
