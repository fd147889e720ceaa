"""The body of a `stream: false` answer, from the lines of the streamed one.

Ollama makes it of the last line: text, thinking, tool calls and logprobs of all lines are put into
it, in the order of its own types. Fields that we don't know stay where they are.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from serve.errors import EngineDied, EngineRefused
from serve.wire.frames import Done, error_text, is_error, parse_last
from serve.wire.gojson import dumps

__all__ = ["Done", "collect", "parse_last"]

_METRICS = (
    "total_duration",
    "load_duration",
    "prompt_eval_count",
    "prompt_eval_duration",
    "eval_count",
    "eval_duration",
)


def collect(lines: Sequence[bytes], route: str) -> bytes:
    """One JSON object, without a newline, from the lines of `/api/generate` or `/api/chat`.

    Lines that end without `"done":true` give what Ollama gives: the last line as it is, with the
    text of all. Raises `EngineRefused` (500) with the text of an error line, `EngineDied` where
    there is no line.
    """
    chunks = [_chunk(line) for line in lines if line.strip()]
    if not chunks:
        raise EngineDied
    return dumps(_chat(chunks) if route == "/api/chat" else _generate(chunks))


def _chunk(line: bytes) -> dict[str, Any]:
    if is_error(line):
        raise EngineRefused(500, error_text(line))
    chunk: dict[str, Any] = msgspec.json.decode(line)
    return chunk


def _joined(chunks: Sequence[dict[str, Any]], field: str) -> str:
    return "".join(chunk.get(field, "") for chunk in chunks)


def _logprobs(chunks: Sequence[dict[str, Any]]) -> list[Any]:
    return [entry for chunk in chunks for entry in chunk.get("logprobs") or ()]


def _generate(chunks: Sequence[dict[str, Any]]) -> dict[str, Any]:
    whole: dict[str, Any] = {}
    for name, value in chunks[-1].items():
        if name == "response":
            whole[name] = _joined(chunks, "response")
            _put(whole, "thinking", _joined(chunks, "thinking"))
        elif name not in ("thinking", "logprobs"):
            whole[name] = value
    _put(whole, "logprobs", _logprobs(chunks))
    return whole


def _chat(chunks: Sequence[dict[str, Any]]) -> dict[str, Any]:
    last, logprobs = chunks[-1], _logprobs(chunks)
    whole: dict[str, Any] = {}
    for name, value in last.items():
        if name in _METRICS and "logprobs" not in whole:
            _put(whole, "logprobs", logprobs)
        if name != "logprobs":
            whole[name] = value
    _put(whole, "logprobs", logprobs)
    whole["message"] = _message([chunk["message"] for chunk in chunks])
    return whole


def _message(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    calls = [call for part in parts for call in part.get("tool_calls") or ()]
    message = {"role": parts[-1].get("role", ""), "content": _joined(parts, "content")}
    _put(message, "thinking", _joined(parts, "thinking"))
    _put(message, "images", parts[-1].get("images"))
    _put(message, "tool_calls", calls)
    for name, value in parts[-1].items():
        if name not in ("thinking", "images", "tool_calls"):
            message.setdefault(name, value)
    return message


def _put(whole: dict[str, Any], name: str, value: object) -> None:
    """Set a field unless Go would leave it out."""
    if value:
        whole[name] = value
