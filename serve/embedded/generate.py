"""POST /api/generate."""

import contextlib
from collections.abc import AsyncGenerator, Iterable
from typing import Any

from serve.embedded import thoughts
from serve.embedded.asking import Question, base64_of, fitting, rendered, text_of, tokens
from serve.embedded.capability import choose_thinking, require, top_logprobs_in_range
from serve.embedded.completion import Piece, complete
from serve.embedded.engine import Engine, Request, named
from serve.embedded.lines import NEVER, counts_of, head_of, joined, logprobs_of
from serve.embedded.loaded import Loaded
from serve.embedded.models import LocalModel
from serve.embedded.replies import Line, Reply, answer, json_reply
from serve.embedded.templates import GO_TEMPLATE
from serve.errors import BadRequest, NotFound
from serve.wire.messages import Message
from serve.wire.native import GenerateRequest, decode


async def generate(engine: Engine, request: Request) -> Reply:
    """The answer to a prompt; without a prompt, the model is loaded or unloaded.

    Raises what the client is told, as `RayllamaError`.
    """
    asked = decode(request.body, GenerateRequest)
    top_logprobs_in_range(asked.top_logprobs)
    missing = NotFound(f"model '{asked.model}' not found")
    model = await named(engine, asked.model, unnamed=missing)
    if model is None:
        raise missing
    if not asked.prompt and asked.keep_alive == 0:
        engine.scheduler.expire(model)
        return json_reply(
            head_of(asked.model) | {"response": "", "done": True, "done_reason": "unload"}
        )
    think = _checked(model, asked)
    options = engine.options(model, asked.options)
    loaded = await request.runner(engine, model, options, asked.keep_alive, shift=asked.shift)
    if not asked.prompt:
        return json_reply(
            head_of(asked.model) | {"response": "", "done": True, "done_reason": "load"}
        )
    question = Question(
        options=options,
        format=asked.format,
        think=think,
        truncate=asked.truncate is not False,
        logprobs=asked.logprobs,
        top_logprobs=asked.top_logprobs,
    )
    prompt = asked.prompt if asked.raw_mode else await _prompt(loaded, model, asked, question)
    if asked.debug_render_only:
        return json_reply(_debug(asked, prompt))
    lines = _lines(request, loaded, asked, question, prompt)
    return await answer(lines, stream=asked.stream is not False, join=_joined)


def _checked(model: LocalModel, asked: GenerateRequest) -> bool | str | None:
    """What the model is to do about thinking. Raises `BadRequest` for what it can't do."""
    if asked.raw_mode and (asked.template or asked.system or asked.context):
        raise BadRequest("raw mode does not support template, system, or context")
    think = choose_thinking(model, asked.model, asked.think)
    require(model, asked.model, "generate", insert=bool(asked.suffix))
    foreign = model.foreign and not asked.raw_mode
    if asked.prompt and (asked.template or foreign):
        raise BadRequest(GO_TEMPLATE)
    return think


async def _prompt(
    loaded: Loaded, model: LocalModel, asked: GenerateRequest, question: Question
) -> str:
    """The prompt in the model's chat template, after the text of an earlier `context`."""
    user = Message(role="user", content=asked.prompt)
    before = await text_of(loaded, asked.context) if asked.context else ""
    if asked.suffix:
        return before + await rendered(loaded, [user], question, suffix=asked.suffix)
    system = asked.system or model.system
    messages = [Message(role="system", content=system)] if system else []
    if not asked.context:
        messages += model.messages
    messages = await fitting(loaded, [*messages, user], question)
    return before + await rendered(loaded, messages, question)


async def _lines(
    request: Request, loaded: Loaded, asked: GenerateRequest, question: Question, prompt: str
) -> AsyncGenerator[Line, None]:
    """The answer line by line; the last one holds what it took, and the context to go on from."""
    images = [base64_of(image) for image in asked.images]
    said: list[str] = []
    source = _noted(complete(loaded, prompt, question, images), said)
    if question.think and not asked.raw_mode:
        source = thoughts.apart(source, prompt, every=True)
    async with contextlib.aclosing(source) as pieces:
        async for piece in pieces:
            line = head_of(asked.model) | _text(piece)
            if piece.final is not None:
                line |= {"done": True, "done_reason": piece.final.reason}
                took = request.durations()
                if not asked.raw_mode:
                    line["context"] = await tokens(loaded, prompt + "".join(said))
                line |= counts_of(piece, took)
            yield line | logprobs_of(piece)


async def _noted(
    pieces: AsyncGenerator[Piece, None], said: list[str]
) -> AsyncGenerator[Piece, None]:
    """The pieces as they are; their texts are added to `said`, tags and all."""
    async with contextlib.aclosing(pieces):
        async for piece in pieces:
            said.append(piece.text)
            yield piece


def _text(piece: Piece) -> Line:
    thinking = {"thinking": piece.thinking} if piece.thinking else {}
    return {"response": piece.text} | thinking | {"done": False}


def _debug(asked: GenerateRequest, prompt: str) -> Line:
    info: dict[str, Any] = {"rendered_template": prompt}
    if asked.images:
        info["image_count"] = len(asked.images)
    return head_of(asked.model) | {"response": "", "done": False, "_debug_info": info}


def _joined(lines: Iterable[Line]) -> Line:
    """One object of all lines: the last one, with all text, thoughts and log probabilities."""
    lines = list(lines)
    if not lines:
        return {"model": "", "created_at": NEVER, "response": "", "done": False}
    thinking = "".join(line.get("thinking", "") for line in lines)
    texts: Line = {"response": "".join(line["response"] for line in lines)}
    if thinking:
        texts["thinking"] = thinking
    return joined(lines, texts)
