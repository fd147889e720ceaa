"""Chats with tools or thoughts: llama.cpp's `/v1/chat/completions`, which parses both."""

import contextlib
import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

from serve.embedded.asking import Question, chat_body, sampling, schema_of, sendable
from serve.embedded.completion import Piece, final_of, logprobs
from serve.embedded.loaded import Loaded
from serve.errors import EngineError
from serve.wire.messages import Message


async def converse(
    loaded: Loaded, messages: Sequence[Message], question: Question
) -> AsyncGenerator[Piece, None]:
    """The pieces of the answer; tool calls come whole, in the last. Raises as `complete` does."""
    async with loaded.slots:
        body = sampling(question, loaded) | chat_body(messages, question) | _format(question)
        sendable(body)
        if question.logprobs:
            body |= {"logprobs": True, "top_logprobs": max(question.top_logprobs, 1)}
        calls = _Calls()
        llama = loaded.process.llama
        async with contextlib.aclosing(llama.events("/v1/chat/completions", body)) as events:
            async for event in events:
                piece = _piece(event, calls, top=question.top_logprobs > 0)
                if piece is not None:
                    yield piece
                    if piece.final:
                        return


def _piece(event: Mapping[str, Any], calls: "_Calls", *, top: bool) -> Piece | None:
    if event.get("error"):
        raise EngineError(f"llama-server chat error: {event['error']}")
    if not event.get("choices"):
        return None
    choice = event["choices"][0]
    delta = choice.get("delta", {})
    calls.add(delta.get("tool_calls") or ())
    text, thinking = delta.get("content") or "", delta.get("reasoning_content") or ""
    probabilities = logprobs((choice.get("logprobs") or {}).get("content") or (), top=top)
    if reason := choice.get("finish_reason"):
        final = final_of("length" if reason == "length" else "stop", event["timings"])
        return Piece(text, thinking, probabilities, calls.done(), final)
    return Piece(text, thinking, probabilities) if text or thinking or probabilities else None


def _format(question: Question) -> dict[str, Any]:
    schema = schema_of(question)
    if schema is None:
        return {}
    if isinstance(schema, str):
        return {"response_format": {"type": "json_object"}}
    named = {"name": "schema", "schema": schema}
    return {"response_format": {"type": "json_schema", "json_schema": named}}


class _Calls:
    """The tool calls of an answer, put together from their fragments."""

    def __init__(self) -> None:
        self._parts: dict[int, dict[str, str]] = {}

    def add(self, fragments: Sequence[Mapping[str, Any]]) -> None:
        """Takes the fragments of one event."""
        for fragment in fragments:
            call = self._parts.setdefault(
                fragment.get("index", 0), {"id": "", "name": "", "args": ""}
            )
            function = fragment.get("function") or {}
            call["id"] += fragment.get("id") or ""
            call["name"] += function.get("name") or ""
            call["args"] += function.get("arguments") or ""

    def done(self) -> list[dict[str, Any]]:
        """The calls in order. Raises `EngineError` where arguments are no JSON."""
        return [_call(index, call) for index, call in sorted(self._parts.items())]


def _call(index: int, call: Mapping[str, str]) -> dict[str, Any]:
    try:
        arguments = json.loads(call["args"]) if call["args"].strip() else {}
    except ValueError as error:
        raise EngineError(
            f'llama-server returned invalid tool call arguments for "{call["name"]}": {error}'
        ) from None
    function = {"index": index, "name": call["name"], "arguments": arguments}
    return ({"id": call["id"]} if call["id"] else {}) | {"function": function}
