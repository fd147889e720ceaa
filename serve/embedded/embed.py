"""POST /api/embed, and the older POST /api/embeddings."""

import contextlib
import math
from collections.abc import Sequence
from typing import Any

from serve.embedded.asking import text_of, tokens
from serve.embedded.engine import Engine, Request, named
from serve.embedded.gguf_facts import shortest
from serve.embedded.loaded import Loaded
from serve.embedded.models import LocalModel
from serve.embedded.replies import Reply, json_reply
from serve.errors import BadRequest, EngineRefused, NotFound, RayllamaError
from serve.wire import gojson
from serve.wire.names import REQUIRED
from serve.wire.native import EmbeddingsRequest, EmbedRequest, decode, quoted
from serve.wire.options import Options

_TOO_LONG = "the input length exceeds the context length"
_TOO_LONG_SIGNS = ("too large", "context size", "context length", "physical batch size")
_SMALLEST_NORM = 1e-12


async def embed(engine: Engine, request: Request) -> Reply:
    """The normalised vectors of one or more inputs; without any, the model is loaded.

    Raises what the client is told, as `RayllamaError`.
    """
    asked = decode(request.body, EmbedRequest)
    missing = NotFound(f"model '{asked.model}' not found")
    await _known_name(engine, asked.model, missing)
    inputs = _inputs(asked.input)
    model = await _found(engine, asked.model, missing)
    options = engine.options(model, asked.options)
    loaded = await request.runner(engine, model, options, asked.keep_alive)
    if not inputs:
        return json_reply({"model": asked.model, "embeddings": []})
    vectors, count = [], 0
    for text in inputs:
        vector, used = await _embedded(loaded, text, options, truncate=asked.truncate is not False)
        vectors.append(_cut(_normal(vector), asked.dimensions))
        count += used
    counts = request.durations() | {"prompt_eval_count": count}
    return json_reply({"model": asked.model, "embeddings": vectors} | counts)


async def embeddings(engine: Engine, request: Request) -> Reply:
    """The vector of one prompt as the model gives it; without one, the model is loaded.

    Raises what the client is told, as `RayllamaError`.
    """
    asked = decode(request.body, EmbeddingsRequest)
    model = await _found(engine, asked.model, BadRequest(REQUIRED))
    options = engine.options(model, asked.options)
    loaded = await request.runner(engine, model, options, asked.keep_alive)
    if not asked.prompt:
        return json_reply({"embedding": []})
    try:
        vector, _ = await _vector(loaded, asked.prompt)
    except EngineRefused as error:
        raise EngineRefused(500, str(error)) from None
    return json_reply({"embedding": vector})


async def _known_name(engine: Engine, name: str, missing: NotFound) -> None:
    """Ollama looks at the name's form before the input, and for the model after it."""
    await named(engine, name, unnamed=missing)


async def _found(engine: Engine, name: str, unnamed: BadRequest | NotFound) -> LocalModel:
    model = await named(engine, name, unnamed=unnamed)
    if model is None:
        raise NotFound(f"model {quoted(name)} not found, try pulling it first")
    return model


def _inputs(value: Any) -> list[str]:
    if value is None or value == "":
        return []
    inputs = [value] if isinstance(value, str) else value
    if not isinstance(inputs, list) or not all(isinstance(text, str) for text in inputs):
        raise BadRequest("invalid input type")
    return inputs


async def _embedded(
    loaded: Loaded, text: str, options: Options, *, truncate: bool
) -> tuple[list[float], int]:
    """The vector of one text, cut to what fits unless `truncate` forbids it; and its tokens."""
    limit = min(options.num_ctx, loaded.model.facts.number("context_length") or options.num_ctx)
    text = await _fitted(loaded, text, limit, truncate=truncate)
    try:
        return await _vector(loaded, text)
    except EngineRefused as error:
        if error.status != BadRequest.status or not truncate:
            raise
    return await _vector(loaded, await _fitted(loaded, text, options.num_batch, truncate=True))


async def _fitted(loaded: Loaded, text: str, limit: int, *, truncate: bool) -> str:
    ids = await tokens(loaded, text)
    room = limit - _added(loaded, ids)
    if len(ids) <= room:
        return text
    if not truncate:
        raise BadRequest(_TOO_LONG)
    if room <= 0:
        raise BadRequest("input after truncation exceeds maximum context length")
    return await text_of(loaded, ids[:room])


def _added(loaded: Loaded, ids: Sequence[int]) -> int:
    """How many tokens the model will put around these: a beginning and an end, where missing."""
    keys = loaded.model.facts.keys
    ends = ((ids[:1], "bos"), (ids[-1:], "eos"))
    return sum(
        bool(end) and end[0] != keys.get(f"tokenizer.ggml.{name}_token_id", 0) for end, name in ends
    )


async def _vector(loaded: Loaded, text: str) -> tuple[list[float], int]:
    """What the runner makes of a text. Raises `EngineRefused` with its message alone."""
    async with loaded.slots:
        try:
            answer = await loaded.process.llama.ask("/v1/embeddings", {"input": text})
        except EngineRefused as error:
            raise _explained(error) from None
    return list(answer["data"][0]["embedding"]), int(answer["usage"]["prompt_tokens"])


def _explained(error: EngineRefused) -> RayllamaError:
    message = str(error)
    with contextlib.suppress(BadRequest, KeyError, TypeError):
        message = gojson.loads(message.encode())["error"]["message"]  # type: ignore[index]
    if any(sign in message.lower() for sign in _TOO_LONG_SIGNS):
        return EngineRefused(400, _TOO_LONG)
    return EngineRefused(error.status, message)


def _cut(vector: list[float], dimensions: int) -> list[float]:
    """The first `dimensions` numbers, normalised again, each in the shortest form of a float32."""
    if 0 < dimensions < len(vector):
        vector = _normal(vector[:dimensions])
    return [shortest(value) for value in vector]


def _normal(vector: Sequence[float]) -> list[float]:
    """Of length 1. Raises `BadRequest` for numbers that are none."""
    if not all(math.isfinite(value) for value in vector):
        raise BadRequest("embedding contains NaN or Inf values")
    norm = max(math.sqrt(math.fsum(value * value for value in vector)), _SMALLEST_NORM)
    return [value / norm for value in vector]
