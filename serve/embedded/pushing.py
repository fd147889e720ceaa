"""POST /api/push: a model from the store to a registry."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from serve.embedded.engine import Engine, Request
from serve.embedded.layers import manifest_of, on_disk
from serve.embedded.manifests import Layer, Manifest
from serve.embedded.replies import Line, Reply, progress
from serve.embedded.uploading import Upstream
from serve.errors import BadRequest, EngineError
from serve.wire.names import INVALID, REQUIRED, canonical, parse
from serve.wire.native import decode
from serve.wire.orders import PushRequest


async def push(engine: Engine, request: Request) -> Reply:
    """Gives a registry a model, with progress. Raises `BadRequest` for a name that is none."""
    asked = decode(request.body, PushRequest)
    if not asked.target:
        raise BadRequest(REQUIRED)
    try:
        parse(asked.target)
    except BadRequest:
        raise BadRequest(INVALID) from None
    lines = pushed(engine, asked.target, insecure=asked.insecure)
    return await progress(lines, stream=asked.stream is not False)


async def pushed(engine: Engine, name: str, *, insecure: bool) -> AsyncGenerator[Line, None]:
    """The lines of a push. Raises `EngineError`, `OSError`."""
    yield {"status": "retrieving manifest"}
    manifest = await _manifest(engine, canonical(name))
    if manifest is None:
        yield {"status": "couldn't retrieve manifest"}
        path = engine.shelf.library.manifests.path(name)
        raise EngineError(f"open {path}: no such file or directory")
    async with Upstream.open(parse(name), insecure=insecure) as upstream:
        for layer in manifest.blobs:
            async with aclosing(_layer(engine, upstream, layer)) as lines:
                async for line in lines:
                    yield line
        yield {"status": "pushing manifest"}
        await upstream.put_manifest(parse(name).tag, manifest.written())
    yield {"status": "success"}


async def _manifest(engine: Engine, name: str) -> Manifest | None:
    """That of the store, or one made for a model that comes with the engine."""
    found = await on_disk(engine.shelf.library.manifests.read, name)
    if found is None and (model := await engine.shelf.find(name)) is not None:
        return await on_disk(manifest_of, engine.shelf.library.blobs, model)
    return found


async def _layer(engine: Engine, upstream: Upstream, layer: Layer) -> AsyncGenerator[Line, None]:
    """How far a layer is; one that the registry has is there at once."""
    line: Line = {
        "status": f"pushing {layer.digest[7:19]}",
        "digest": layer.digest,
        "total": layer.size,
    }
    if not await upstream.has(layer.digest):
        file = engine.shelf.library.blobs.existing(layer.digest)
        async with aclosing(upstream.upload(file, layer)) as sizes:
            async for sent in sizes:
                yield line | ({"completed": sent} if sent else {})
    yield line | {"completed": layer.size}
