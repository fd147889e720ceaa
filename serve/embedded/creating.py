"""POST /api/create: a model made of another one, or of a GGUF file that was uploaded."""

import contextlib
import json
from collections.abc import AsyncGenerator

from serve.embedded import gguf_facts, manifests
from serve.embedded.blobs import Blobs
from serve.embedded.engine import Engine, Request
from serve.embedded.layers import (
    layers_of,
    manifest,
    messages_text,
    named_parent,
    on_disk,
    parameters_text,
    template_texts,
    text_layer,
)
from serve.embedded.manifests import Layer
from serve.embedded.pulling import pulled
from serve.embedded.replies import Line, Reply, progress
from serve.embedded.templates import accepted
from serve.errors import BadRequest, EngineError, NotFound
from serve.wire.names import INVALID, canonical
from serve.wire.native import decode
from serve.wire.options import Options
from serve.wire.orders import CreateRequest

_QUANTIZATIONS = ("F32", "F16", "Q4_K_S", "Q4_K_M", "Q8_0")


async def create(engine: Engine, request: Request) -> Reply:
    """Makes a model, a line for every step. Raises `BadRequest` for a name that is none."""
    asked = decode(request.body, CreateRequest)
    try:
        name = canonical(asked.target)
    except BadRequest:
        raise BadRequest(INVALID) from None
    return await progress(_lines(engine, name, asked), stream=asked.stream is not False)


async def _lines(engine: Engine, name: str, asked: CreateRequest) -> AsyncGenerator[Line, None]:
    """The steps. Raises what the client is told, as `RayllamaError`, or `OSError`."""
    _refuse(asked)
    template = accepted(asked.template)
    Options.merged(asked.parameters)
    library = engine.shelf.library
    if asked.base:
        if await engine.shelf.find(canonical(asked.base)) is None:
            lines = pulled(engine, asked.base, insecure=False)
            async with contextlib.aclosing(lines):
                async for line in lines:
                    yield line
        layers = await _based(engine, asked.base)
        for layer in layers:
            if _is_kept(layer, asked):
                yield {"status": f"using existing layer {layer.digest}"}
    else:
        yield {"status": "parsing GGUF"}
        layers = [await on_disk(_uploaded, library.blobs, asked)]
        yield {"status": f"using existing layer {layers[0].digest}"}
    kept = [layer for layer in layers if _is_kept(layer, asked)]
    before = await on_disk(_parameters, library.blobs, layers)
    for kind, text in _texts(asked, template, before):
        layer, new = await on_disk(text_layer, library.blobs, kind, text)
        done = "creating new" if new else "using existing"
        yield {"status": f"{done} layer {layer.digest}"}
        kept.append(layer)
    yield {"status": "writing manifest"}
    made = await on_disk(manifest, library.blobs, kept)
    await on_disk(library.manifests.write, name, made.written())
    yield {"status": "success"}


def _refuse(asked: CreateRequest) -> None:
    """Raises what is wrong with a request before anything is done for it."""
    if not asked.base and not asked.files:
        raise BadRequest("neither 'from' or 'files' was specified")
    if asked.quantize:
        kind = asked.quantize.upper()
        if kind not in _QUANTIZATIONS:
            raise EngineError(
                f"unsupported quantization type {kind} - supported types are "
                f"{', '.join(_QUANTIZATIONS)}"
            )
        raise BadRequest("the embedded engine doesn't quantize: create from a GGUF that is")
    if asked.adapters:
        raise BadRequest("the embedded engine takes no adapters")


async def _based(engine: Engine, base: str) -> list[Layer]:
    """The layers of the model to begin with. Raises `NotFound`."""
    model = await engine.shelf.find(canonical(base))
    if model is None:
        raise NotFound(f"model '{base}' not found")
    library = engine.shelf.library
    found = await on_disk(library.manifests.read, model.name)
    layers = list(found.layers) if found else await on_disk(layers_of, library.blobs, model)
    return [
        named_parent(layer, base) if layer.media_type == manifests.MODEL else layer
        for layer in layers
    ]


def _uploaded(blobs: Blobs, asked: CreateRequest) -> Layer:
    """The weights among the files. Raises `EngineError`, and `BadRequest` for a bad digest."""
    if len(asked.files) != 1:
        raise BadRequest("the embedded engine makes models of one GGUF file")
    (digest,) = asked.files.values()
    path = blobs.existing(digest)
    try:
        gguf_facts.read(path)
    except ValueError:
        raise EngineError("supplied file was not in GGUF format") from None
    return Layer(manifests.MODEL, f"sha256:{path.name[7:]}", path.stat().st_size)


def _is_kept(layer: Layer, asked: CreateRequest) -> bool:
    """Does the new model have it, or something else instead?"""
    replaced = {
        manifests.TEMPLATE: asked.template,
        manifests.JINJA: asked.template,
        manifests.SYSTEM: asked.system,
        manifests.PARAMETERS: asked.parameters,
        manifests.MESSAGES: asked.messages,
        manifests.LICENSE: asked.license,
    }
    return not replaced.get(layer.media_type)


def _parameters(blobs: Blobs, layers: list[Layer]) -> dict[str, object]:
    """Those of the model to begin with."""
    found = [layer for layer in layers if layer.media_type == manifests.PARAMETERS]
    values: dict[str, object] = {}
    for layer in found:
        values |= json.loads(blobs.path(layer.digest).read_bytes())
    return values


def _texts(
    asked: CreateRequest, template: str, parameters: dict[str, object]
) -> list[tuple[str, str]]:
    """The layers that the request itself brings."""
    texts = template_texts(template) if asked.template else []
    if asked.system:
        texts.append((manifests.SYSTEM, asked.system))
    if asked.parameters:
        texts.append((manifests.PARAMETERS, parameters_text(parameters | asked.parameters)))
    if asked.messages:
        texts.append((manifests.MESSAGES, messages_text(asked.messages)))
    licenses = asked.license if isinstance(asked.license, list) else [asked.license]
    return texts + [(manifests.LICENSE, str(text)) for text in licenses if text]
