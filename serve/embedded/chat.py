"""POST /api/chat."""

import contextlib
from collections.abc import AsyncGenerator, Iterable
from dataclasses import replace
from typing import Any

from serve.embedded import thoughts
from serve.embedded.asking import Question, base64_of, fitting, rendered
from serve.embedded.capability import choose_thinking, require, top_logprobs_in_range
from serve.embedded.completion import Piece, complete
from serve.embedded.engine import Engine, Request, named
from serve.embedded.lines import NEVER, counts_of, head_of, joined, logprobs_of
from serve.embedded.loaded import Loaded
from serve.embedded.models import LocalModel
from serve.embedded.native_chat import converse
from serve.embedded.replies import Line, Reply, answer, json_reply
from serve.embedded.templates import GO_TEMPLATE
from serve.errors import BadRequest, NotFound
from serve.wire.messages import Message
from serve.wire.names import REQUIRED
from serve.wire.native import ChatRequest, decode

_EMPTY = {"role": "assistant", "content": ""}


async def chat(engine: Engine, request: Request) -> Reply:
    """The next message; without messages, the model is loaded or unloaded.

    Raises what the client is told, as `RayllamaError`.
    """
    asked = decode(request.body, ChatRequest)
    top_logprobs_in_range(asked.top_logprobs)
    model = await named(engine, asked.model, unnamed=BadRequest(REQUIRED))
    if model is None:
        raise NotFound(f"model '{asked.model}' not found")
    if not asked.messages and asked.keep_alive == 0:
        engine.scheduler.expire(model)
        return json_reply(head_of(asked.model) | _ended("unload"))
    think = choose_thinking(model, asked.model, asked.think)
    require(model, asked.model, "chat", tools=bool(asked.tools))
    if model.foreign and asked.messages:
        raise BadRequest(GO_TEMPLATE)
    options = engine.options(model, asked.options)
    loaded = await request.runner(engine, model, options, asked.keep_alive, shift=asked.shift)
    if not asked.messages:
        return json_reply(head_of(asked.model) | _ended("load"))
    question = Question(
        options=options,
        format=asked.format,
        think=think,
        truncate=asked.truncate is not False,
        logprobs=asked.logprobs,
        top_logprobs=asked.top_logprobs,
        tools=asked.tools,
    )
    messages = await fitting(loaded, _with_own(model, asked.messages), question)
    if asked.debug_render_only:
        return json_reply(_debug(asked, await rendered(loaded, messages, question)))
    lines = _lines(request, loaded, asked, question, messages)
    return await answer(lines, stream=asked.stream is not False, join=_joined)


def _with_own(model: LocalModel, messages: list[Message]) -> list[Message]:
    """The model's own system message, unless the client has one, and its own messages first."""
    if not model.system or messages[0].role == "system":
        return [*model.messages, *messages]
    return [Message(role="system", content=model.system), *model.messages, *messages]


async def _lines(
    request: Request,
    loaded: Loaded,
    asked: ChatRequest,
    question: Question,
    messages: list[Message],
) -> AsyncGenerator[Line, None]:
    """The answer line by line; the last one holds tool calls, and what it took."""
    pieces = _pieces(loaded, question, messages)
    async with contextlib.aclosing(pieces):
        async for piece in pieces:
            line = head_of(asked.model) | {"message": _message(piece), "done": False}
            if piece.final is None:
                yield line | logprobs_of(piece)
            else:
                ended = {"done": True, "done_reason": piece.final.reason}
                yield line | ended | logprobs_of(piece) | counts_of(piece, request.durations())


async def _pieces(
    loaded: Loaded, question: Question, messages: list[Message]
) -> AsyncGenerator[Piece, None]:
    """The answer; thoughts before an answer in a format are free of it, as in Ollama.

    Where text follows them the model is asked again, with these thoughts, for text in the format.
    Without thoughts the text stays free too.
    """
    thought, is_bound = "", False
    is_first = bool(question.think and question.format and _has_tags(loaded))
    first = replace(question, format=None) if is_first else question
    prompt = await rendered(loaded, messages, first)
    source = _answered(loaded, messages, first, prompt)
    if question.think and _has_tags(loaded):
        source = thoughts.apart(source, prompt)
    async with contextlib.aclosing(source):
        async for piece in source:
            thought += piece.thinking
            is_bound = bool(is_first and thought and piece.text)
            if is_bound:
                yield replace(piece, text="", final=None)
                break
            yield piece
    if is_bound:
        messages = [*messages, Message(role="assistant", thinking=thought)]
        prompt = await rendered(loaded, messages, question)
        async with contextlib.aclosing(_answered(loaded, messages, question, prompt)) as source:
            async for piece in source:
                yield piece


def _answered(
    loaded: Loaded, messages: list[Message], question: Question, prompt: str
) -> AsyncGenerator[Piece, None]:
    """From llama.cpp's own chat where it has something to parse, else from a plain prompt."""
    images = [base64_of(image) for message in messages for image in message.images]
    if not images and (question.tools or (question.think and not _has_tags(loaded))):
        return converse(loaded, messages, question)
    return complete(loaded, prompt, question, images)


def _has_tags(loaded: Loaded) -> bool:
    return thoughts.has_tags(loaded.model.template)


def _ended(reason: str) -> Line:
    return {"message": _EMPTY, "done": True, "done_reason": reason}


def _message(piece: Piece) -> Line:
    message: Line = {"role": "assistant", "content": piece.text}
    if piece.thinking:
        message["thinking"] = piece.thinking
    if piece.tool_calls:
        message["tool_calls"] = piece.tool_calls
    return message


def _debug(asked: ChatRequest, prompt: str) -> Line:
    images = sum(len(message.images) for message in asked.messages)
    info: dict[str, Any] = {"rendered_template": prompt}
    if images:
        info["image_count"] = images
    empty = {"role": "", "content": ""}
    return head_of(asked.model) | {"message": empty, "done": False, "_debug_info": info}


def _joined(lines: Iterable[Line]) -> Line:
    """One object of all lines: the last one, with all text, thoughts and log probabilities."""
    lines = list(lines)
    if not lines:
        empty = {"role": "", "content": ""}
        return {"model": "", "created_at": NEVER, "message": empty, "done": False}
    messages = [line["message"] for line in lines]
    message: Line = {"role": "assistant", "content": "".join(m["content"] for m in messages)}
    thinking = "".join(m.get("thinking", "") for m in messages)
    if thinking:
        message["thinking"] = thinking
    calls = [call for m in messages for call in m.get("tool_calls", ())]
    if calls:
        message["tool_calls"] = calls
    return joined(lines, {"message": message})
