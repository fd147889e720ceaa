"""POST /v1/chat/completions: the answer, made of the lines of a native one.

The same id, `created` and lines always give the same bytes, so an answer can be rendered again.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from serve.errors import EngineDied
from serve.wire.collect import collect
from serve.wire.errors import openai_body
from serve.wire.frames import error_text, is_error
from serve.wire.gojson import dumps, unix_seconds
from serve.wire.openai_types import ChatCompletionRequest

_DONE = b"data: [DONE]\n\n"
ID_RANGE = 999


def completion_id(number: int) -> str:
    """`chatcmpl-<0..998>`: as in Ollama, no identity."""
    return f"chatcmpl-{number % ID_RANGE}"


def created_s(line: bytes) -> int:
    """The `created` that goes with a native line: the first of a stream, the last of a whole.

    0 for a line without a time, like an error.
    """
    return unix_seconds(_loads(line).get("created_at", ""))


class ChatRenderer:
    """One answer, as a stream of events or as a whole."""

    def __init__(self, request: ChatCompletionRequest, *, id: str, created: int) -> None:
        self._id = id
        self._created = created
        options = request.stream_options
        self._with_usage = options is not None and options.include_usage
        self._begun = False
        self._called = False

    def chunk(self, native_line: bytes) -> bytes:
        """The events for one native line.

        A final line gives the finish chunk, the usage chunk if it was asked for, and `[DONE]`. An
        error line gives what `error` gives.
        """
        if is_error(native_line):
            return self.error(error_text(native_line))
        line = _loads(native_line)
        message = line["message"]
        empty = not any(message.get(name) for name in ("content", "thinking", "tool_calls"))
        events = b""
        if not (line.get("done") and self._begun and empty and not line.get("logprobs")):
            events = self._content(line, message)
        return events + self._finish(line) if line.get("done") else events

    def whole(self, lines: Sequence[bytes]) -> bytes:
        """The body of an answer that is no stream. Raises as `collect` does."""
        line = _loads(collect(lines, "/api/chat"))
        message = line["message"]
        calls = _tool_calls(message)
        reason = line.get("done_reason") or None
        choice = {
            "index": 0,
            "message": {"role": message["role"], "content": message["content"]}
            | _if("reasoning", message.get("thinking"))
            | _if("tool_calls", calls),
            "finish_reason": "tool_calls" if reason == "stop" and calls else reason,
        }
        body = self._head("chat.completion", line["model"])
        body["choices"] = [choice | _logprobs(line)]
        body["usage"] = _usage(line)
        return dumps(body | _if("_debug_info", line.get("_debug_info"))) + b"\n"

    def error(self, message: str) -> bytes:
        """The event that ends a stream that went wrong after it had begun."""
        return _event(openai_body(EngineDied(message), newline=False))

    def _head(self, kind: str, model: str) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": kind,
            "created": self._created,
            "model": model,
            "system_fingerprint": "fp_ollama",
        }

    def _chunk(self, line: dict[str, Any], choices: list[dict[str, Any]]) -> dict[str, Any]:
        return self._head("chat.completion.chunk", line["model"]) | {"choices": choices}

    def _content(self, line: dict[str, Any], message: dict[str, Any]) -> bytes:
        """One chunk, or two where thinking comes together with something else."""
        role = {} if self._begun else {"role": "assistant"}
        self._begun = True
        content = {"content": message.get("content", "")}
        reasoning = _if("reasoning", message.get("thinking"))
        calls = _if("tool_calls", _tool_calls(message))
        self._called = self._called or bool(calls)
        if reasoning and (content["content"] or calls):
            deltas = [(role | reasoning, _logprobs(line)), (content | calls, {})]
        else:
            deltas = [(role | content | reasoning | calls, _logprobs(line))]
        return b"".join(self._delta(line, delta, None, logprobs) for delta, logprobs in deltas)

    def _finish(self, line: dict[str, Any]) -> bytes:
        reason = line.get("done_reason") or "stop"
        if reason == "stop" and self._called:
            reason = "tool_calls"
        events = self._delta(line, {}, reason, {})
        if self._with_usage:
            events += _event(dumps(self._chunk(line, []) | {"usage": _usage(line)}))
        return events + _DONE

    def _delta(
        self,
        line: dict[str, Any],
        delta: dict[str, Any],
        reason: str | None,
        logprobs: dict[str, Any],
    ) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": reason} | logprobs
        return _event(dumps(self._chunk(line, [choice])))


def _loads(line: bytes) -> dict[str, Any]:
    value: dict[str, Any] = msgspec.json.decode(line)
    return value


def _event(data: bytes) -> bytes:
    return b"data: " + data + b"\n\n"


def _if(name: str, value: object) -> dict[str, Any]:
    return {name: value} if value else {}


def _logprobs(line: dict[str, Any]) -> dict[str, Any]:
    entries = line.get("logprobs")
    return {"logprobs": {"content": entries}} if entries else {}


def _usage(line: dict[str, Any]) -> dict[str, int]:
    prompt, completion = line.get("prompt_eval_count", 0), line.get("eval_count", 0)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }


def _tool_calls(message: dict[str, Any]) -> list[dict[str, Any]]:
    return [_tool_call(call) for call in message.get("tool_calls") or ()]


def _tool_call(call: dict[str, Any]) -> dict[str, Any]:
    function = call.get("function", {})
    return {
        "id": call.get("id", ""),
        "index": function.get("index", 0),
        "type": "function",
        "function": {
            "name": function.get("name", ""),
            "arguments": dumps(function.get("arguments", {})).decode(),
        },
    }
