"""POST /v1/messages: the answer, made of the lines of a native one.

The same request, id and lines always give the same bytes, so an answer can be rendered again.
"""

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any

import msgspec

from serve.errors import EngineDied
from serve.wire.anthropic_types import ContentBlock, MessagesRequest
from serve.wire.collect import collect
from serve.wire.errors import anthropic_body
from serve.wire.frames import error_text, is_error
from serve.wire.gojson import dumps

_REASONS = {"": "", "stop": "end_turn", "length": "max_tokens"}


def message_id(line: bytes) -> str:
    """`msg_` and 24 hexadecimal digits, from an answer's first line."""
    return f"msg_{blake2b(line, digest_size=12).hexdigest()}"


class MessageRenderer:
    """One answer, as a stream of events or as a whole."""

    def __init__(self, request: MessagesRequest, *, id: str) -> None:
        self._request = request
        self._id = id
        self._begun = False
        self._index = 0
        self._open = ""
        self._thought = False
        self._called: set[str] = set()

    def chunk(self, native_line: bytes) -> bytes:
        """The events for one native line. An error line gives what `error` gives."""
        if is_error(native_line):
            return self.error(error_text(native_line))
        line: dict[str, Any] = msgspec.json.decode(native_line)
        message = line["message"]
        events = b"" if self._begun else self._start(line)
        thinking, text = message.get("thinking"), message.get("content")
        if thinking and not self._thought:
            events += self._part("thinking", thinking)
        if text:
            events += self._part("text", text)
        for call in message.get("tool_calls") or ():
            events += self._call(call)
        return events + self._finish(line) if line.get("done") else events

    def whole(self, lines: Sequence[bytes]) -> bytes:
        """The body of an answer that is no stream. Raises as `collect` does."""
        line: dict[str, Any] = msgspec.json.decode(collect(lines, "/api/chat"))
        message = line["message"]
        content = [
            {"type": kind, kind: message[name]}
            for kind, name in (("thinking", "thinking"), ("text", "content"))
            if message.get(name)
        ]
        calls = message.get("tool_calls") or []
        content += [_tool_use(call, call["function"].get("arguments") or {}) for call in calls]
        reason = _stop_reason(line, called=bool(calls))
        body = self._message(line["model"], content or None) | reason | {"usage": _usage(line)}
        return dumps(body) + b"\n"

    def error(self, message: str) -> bytes:
        """The event that ends a stream that went wrong after it had begun."""
        return _event(anthropic_body(EngineDied(message)))

    def _message(self, model: str, content: list[dict[str, Any]] | None) -> dict[str, Any]:
        head = {"id": self._id, "type": "message", "role": "assistant"}
        return {**head, "model": model, "content": content}

    def _start(self, line: dict[str, Any]) -> bytes:
        """The count of input tokens isn't known yet, except where all is in one line."""
        self._begun = True
        tokens = line.get("prompt_eval_count", 0) or estimated_tokens(self._request)
        usage = {"usage": {"input_tokens": tokens, "output_tokens": 0}}
        message = self._message(self._request.model, []) | usage
        return _event({"type": "message_start", "message": message})

    def _part(self, kind: str, text: str) -> bytes:
        """More of a block of text or of thinking, which may have to begin."""
        events = b""
        if self._open != kind:
            events = self._stop() + self._block({"type": kind, kind: ""})
            self._open = kind
        return events + self._delta({"type": f"{kind}_delta", kind: text})

    def _call(self, call: dict[str, Any]) -> bytes:
        """One call of a tool, whole, unless it was told before."""
        if call.get("id", "") in self._called:
            return b""
        self._called.add(call.get("id", ""))
        arguments = dumps(call["function"].get("arguments") or {}).decode()
        events = self._stop() + self._block(_tool_use(call, {}))
        events += self._delta({"type": "input_json_delta", "partial_json": arguments})
        self._open = "tool_use"
        return events + self._stop()

    def _block(self, block: dict[str, Any]) -> bytes:
        head = {"type": "content_block_start", "index": self._index}
        return _event({**head, "content_block": block})

    def _delta(self, delta: dict[str, Any]) -> bytes:
        return _event({"type": "content_block_delta", "index": self._index, "delta": delta})

    def _stop(self) -> bytes:
        """End the open block, if one is. Thinking that has ended doesn't begin again."""
        if not self._open:
            return b""
        self._thought = self._thought or self._open == "thinking"
        event = _event({"type": "content_block_stop", "index": self._index})
        self._index += 1
        self._open = ""
        return event

    def _finish(self, line: dict[str, Any]) -> bytes:
        delta = _stop_reason(line, called=bool(self._called))
        last = {"type": "message_delta", "delta": delta, "usage": _usage(line)}
        return self._stop() + _event(last) + _event({"type": "message_stop"})


def _event(data: Mapping[str, object]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (str(data["type"]).encode(), dumps(data))


def _usage(line: dict[str, Any]) -> dict[str, int]:
    return {
        "input_tokens": line.get("prompt_eval_count", 0),
        "output_tokens": line.get("eval_count", 0),
    }


def _stop_reason(line: dict[str, Any], *, called: bool) -> dict[str, str]:
    reason = _REASONS.get(line.get("done_reason") or "", "stop_sequence")
    reason = "tool_use" if called else reason
    return {"stop_reason": reason} if reason else {}


def _tool_use(call: dict[str, Any], arguments: dict[str, Any]) -> dict[str, Any]:
    block = {"type": "tool_use", "id": call.get("id", ""), "name": call["function"].get("name", "")}
    return {name: value for name, value in block.items() if value} | {"input": arguments}


def estimated_tokens(request: MessagesRequest) -> int:
    """Input tokens as Ollama guesses them: a quarter of the bytes, at least one."""
    size = _size(request.system)
    for message in request.messages:
        size += len(message.role.encode()) + sum(map(_block_size, message.blocks))
    for tool in request.tools:
        schema = b"" if tool.input_schema is None else dumps(tool.input_schema)
        size += len(tool.name.encode()) + len(tool.description.encode()) + len(schema)
    return max(size // 4, 1)


def _size(system: Any) -> int:
    if system is None or isinstance(system, str):
        return len((system or "").encode())
    if not isinstance(system, list):
        return len(dumps(system))
    texts = [block.get("text") for block in system if isinstance(block, dict)]
    return sum(len(text.encode()) for text in texts if isinstance(text, str))


def _block_size(block: ContentBlock) -> int:
    size = len((block.text or "").encode()) + len((block.thinking or "").encode())
    if block.type in ("tool_use", "tool_result"):
        told = block.model_dump(include=set(type(block).model_fields))
        size += len(dumps({k: v for k, v in told.items() if v or k == "type"}))
    return size
