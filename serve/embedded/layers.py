"""What a model is made of, as layers: text as blobs, weights as blobs, and a manifest over them."""

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from serve.embedded import gguf_facts, manifests
from serve.embedded.blobs import Blobs
from serve.embedded.manifests import Layer, Manifest
from serve.embedded.models import LocalModel
from serve.embedded.templates import CHATML, GO_CHATML, PROMPT_ONLY
from serve.errors import EngineError
from serve.wire.messages import Message
from serve.wire.names import short

P = ParamSpec("P")
T = TypeVar("T")


async def on_disk(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Work on the store, in a thread. Raises `EngineError` where the disk fails."""
    try:
        return await asyncio.to_thread(work, *args, **kwargs)
    except OSError as error:
        raise EngineError(f"{error.filename or 'disk'}: {error.strerror}") from None


def text_layer(blobs: Blobs, media_type: str, text: str) -> tuple[Layer, bool]:
    """A layer of that text, and whether it is new. Raises `OSError`."""
    data = text.encode()
    digest, new = blobs.put(data)
    return Layer(media_type, digest, len(data)), new


def weights_layer(blobs: Blobs, file: Path, parent: str = "") -> Layer:
    """A layer of a file that is no blob yet. Raises `OSError`."""
    digest = blobs.adopt(file)
    return Layer(manifests.MODEL, digest, blobs.path(digest).stat().st_size, parent)


def template_texts(template: str) -> list[tuple[str, str]]:
    """The layers of a Jinja template: itself, and where it is known, Ollama's own."""
    ours = [(manifests.JINJA, template)]
    return [*ours, (manifests.TEMPLATE, GO_CHATML)] if template == CHATML else ours


def parameters_text(values: Mapping[str, Any]) -> str:
    """Parameters as their layer holds them."""
    return json.dumps(values, sort_keys=True)


def messages_text(messages: Sequence[Message]) -> str:
    """Messages as their layer holds them."""
    return json.dumps([message.model_dump(exclude_unset=True) for message in messages])


def layers_of(blobs: Blobs, model: LocalModel) -> list[Layer]:
    """The layers of a model that comes with the engine, with its weights as a blob."""
    texts: list[tuple[str, str]] = []
    own = str(model.facts.keys.get("tokenizer.chat_template", "")) or PROMPT_ONLY
    if model.template != own:
        texts += template_texts(model.template)
    if model.system:
        texts.append((manifests.SYSTEM, model.system))
    if model.options:
        texts.append((manifests.PARAMETERS, parameters_text(model.options)))
    return [weights_layer(blobs, model.path), *(text_layer(blobs, *text)[0] for text in texts)]


def manifest_of(blobs: Blobs, model: LocalModel) -> Manifest:
    """The manifest of a model that comes with the engine."""
    return manifest(blobs, layers_of(blobs, model))


def manifest(blobs: Blobs, layers: Sequence[Layer]) -> Manifest:
    """A manifest over layers. Raises `ValueError` or `OSError` if the weights can't be read."""
    weights = next(layer for layer in layers if layer.media_type == manifests.MODEL)
    facts = gguf_facts.read(blobs.path(weights.digest))
    config = {
        "model_format": "gguf",
        "model_family": facts.architecture,
        "model_families": [facts.architecture],
        "model_type": gguf_facts.human_count(facts.parameter_count),
        "file_type": facts.file_type,
        "architecture": "amd64",
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [layer.digest for layer in layers]},
    }
    layer, _ = text_layer(blobs, manifests.CONFIG_TYPE, json.dumps(config))
    return Manifest(layer, tuple(layers))


def named_parent(layer: Layer, parent: str) -> Layer:
    """Weights that were taken from a model."""
    return Layer(layer.media_type, layer.digest, layer.size, short(parent))
