"""POST /api/copy, DELETE /api/delete, and the blobs that models are created from."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import PurePosixPath

from serve.embedded.blobs import Writing, digest_of
from serve.embedded.engine import Engine, Request
from serve.embedded.layers import manifest_of, on_disk
from serve.embedded.models import LocalModel
from serve.embedded.replies import Reply, Whole
from serve.errors import BadRequest, EngineError, NotFound
from serve.wire.names import REQUIRED, canonical
from serve.wire.native import decode, quoted
from serve.wire.orders import CopyRequest, DeleteRequest

_PIECE = 1 << 20


async def copy(engine: Engine, request: Request) -> Reply:
    """Gives a model one more name. Raises what the client is told, as `RayllamaError`."""
    asked = decode(request.body, CopyRequest)
    source = _valid(asked.source, f"source {quoted(asked.source)} is invalid")
    target = _valid(asked.destination, f"destination {quoted(asked.destination)} is invalid")
    if source == target:  # whether it is there or not
        return Whole(200)
    model = await engine.shelf.find(source)
    if model is None:
        raise NotFound(f"model {quoted(asked.source)} not found")
    await on_disk(_copy, engine, model, target)
    return Whole(200)


async def delete(engine: Engine, request: Request) -> Reply:
    """Removes a model, and unloads it unless another name has it loaded too.

    Raises what the client is told, as `RayllamaError`.
    """
    asked = decode(request.body, DeleteRequest)
    if not asked.target:
        raise BadRequest(REQUIRED)
    name = _valid(asked.target, f"name {quoted(asked.target)} is invalid")
    model = await engine.shelf.find(name)
    if not await on_disk(engine.shelf.library.manifests.delete, name):
        if engine.shelf.is_built_in(name):
            raise BadRequest(
                f"model '{asked.target}' comes with the embedded engine or its configuration, and "
                "can't be deleted"
            )
        raise NotFound(f"model '{asked.target}' not found")
    if model is not None and all(other.key != model.key for other in await engine.shelf.all()):
        engine.scheduler.expire(model)
    return Whole(200)


async def head_blob(engine: Engine, request: Request) -> Reply:
    """Is a blob there? Raises `BadRequest` for a bad digest, `NotFound`."""
    digest = digest_of(_named(request))
    if not engine.shelf.library.blobs.has(digest):
        raise NotFound(f"blob {quoted(digest)} not found")
    return Whole(200)


async def post_blob(engine: Engine, request: Request) -> Reply:
    """Stores a blob; one that is there is answered before its body has come.

    Raises `BadRequest` for a bad digest, and for a body with another.
    """
    blobs, digest = engine.shelf.library.blobs, digest_of(_named(request))
    if blobs.has(digest):
        return Whole(200)
    if request.upload is None:
        raise EngineError("a blob without a body")
    try:
        with blobs.writing(digest) as writing:
            await _receive(request.upload, writing)
    except ConnectionAbortedError:
        raise
    except OSError as error:
        raise EngineError(f"the blob can't be stored: {error.strerror}") from None
    return Whole(201)


async def _receive(upload: AsyncIterator[bytes], writing: Writing) -> None:
    """Writes the body in pieces that are worth a thread's while."""
    piece = bytearray()
    async for data in upload:
        piece += data
        if len(piece) >= _PIECE:
            await asyncio.to_thread(writing.write, bytes(piece))
            piece.clear()
    await asyncio.to_thread(writing.write, bytes(piece))


def _copy(engine: Engine, model: LocalModel, target: str) -> None:
    manifests = engine.shelf.library.manifests
    if manifests.read(model.name) is not None:
        manifests.copy(model.name, target)
    else:
        manifests.write(target, manifest_of(engine.shelf.library.blobs, model).written())


def _named(request: Request) -> str:
    return PurePosixPath(request.path).name


def _valid(name: str, refusal: str) -> str:
    try:
        return canonical(name)
    except BadRequest:
        raise BadRequest(refusal) from None
