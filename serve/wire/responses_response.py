"""POST /v1/responses: the answer, made of the lines of a native one (openai/responses.go).

The same request and lines always give the same bytes, so an answer can be rendered again. Like
Ollama's, an answer is `completed` even where its length was cut, and a stream that says nothing at
all has a null for its output. A stream's objects are printed with their keys sorted, as Go prints
its maps; a whole answer's in the order of Go's struct.

Where Ollama just ends a stream that failed, this one ends with the protocol's `error` event, and
with `response.failed`, which is terminal for clients that wait for one.
"""

from collections.abc import Sequence
from typing import Any
from zlib import crc32

import msgspec

from serve.wire.collect import collect
from serve.wire.frames import error_text, is_error
from serve.wire.gojson import dumps, unix_seconds
from serve.wire.openai_request import in_go_order
from serve.wire.responses_echo import echoed, echoed_in_stream
from serve.wire.responses_types import ResponsesRequest

_IDS = 999_999
_FAILED = "server_error"


def response_seed(line: bytes) -> int:
    """The number that an answer's ids are made of, from its first line: as in Ollama, six digits
    and no identity."""
    return crc32(line) % _IDS


class Events:
    """Server-sent events, numbered."""

    def __init__(self) -> None:
        self._number = 0

    def __call__(self, kind: str, **data: Any) -> bytes:
        """The next event."""
        told = in_go_order({**data, "type": kind, "sequence_number": self._number})
        self._number += 1
        return b"event: %b\ndata: %b\n\n" % (kind.encode(), dumps(told))


class ResponseRenderer:
    """One answer, as a stream of events or as a whole."""

    def __init__(self, request: ResponsesRequest, *, seed: int, created: int) -> None:
        self._request = request
        self._seed = seed
        self._created = created
        self._event = Events()
        self._begun = False
        self._index = 0
        self._items: list[dict[str, Any]] = []
        self._thinking = ""
        self._text: str | None = None
        self._called = False

    def chunk(self, native_line: bytes) -> bytes:
        """The events for one native line. An error line gives what `error` gives."""
        if is_error(native_line):
            return self.error(error_text(native_line))
        line: dict[str, Any] = msgspec.json.decode(native_line)
        message = line["message"]
        events = self._start()
        if message.get("thinking"):
            events += self._thought(message["thinking"])
        calls = message.get("tool_calls") or []
        if calls:
            events += self._end_of_thinking() + self._call(calls)
        elif message.get("content") and not self._called:
            events += self._end_of_thinking() + self._said(message["content"])
        return events + self._finish(line) if line.get("done") else events

    def whole(self, lines: Sequence[bytes]) -> bytes:
        """The body of an answer that is no stream. Raises as `collect` does."""
        line: dict[str, Any] = msgspec.json.decode(collect(lines, "/api/chat"))
        message = line["message"]
        id = f"resp_{self._seed}"
        output: list[dict[str, Any]] = []
        if message.get("thinking"):
            output.append(_whole_thinking(f"rs_{id}", message["thinking"]))
        calls = message.get("tool_calls") or []
        for index, call in enumerate(calls):
            item = _call_item(f"fc_{id}_{index}", call)
            output.append({name: value for name, value in item.items() if value})
        if not calls:
            output.append(_message_item(self._message_id, message["content"]))
        body = echoed(self._request, id=id, created=self._created, output=output)
        body |= {"completed_at": self._created, "status": "completed", "usage": _usage(line)}
        return dumps(body) + b"\n"

    def error(self, message: str) -> bytes:
        """The events that end a stream that went wrong after it had begun."""
        events = self._start()
        events += self._event("error", code=_FAILED, message=message, param=None)
        fault = {"code": _FAILED, "message": message}
        failed = self._object("failed", self._output() or [], None) | {"error": fault}
        return events + self._event("response.failed", response=failed)

    @property
    def _message_id(self) -> str:
        return f"msg_{(self._seed + 1) % _IDS}"

    @property
    def _thinking_id(self) -> str:
        return f"rs_{(self._seed + 2 + self._index) % _IDS}"

    def _object(self, status: str, output: Any, usage: Any) -> dict[str, Any]:
        told = echoed_in_stream(
            self._request, id=f"resp_{self._seed}", created=self._created, output=output
        )
        return told | {"status": status, "usage": usage}

    def _start(self) -> bytes:
        if self._begun:
            return b""
        self._begun = True
        begun = self._object("in_progress", [], None)
        return self._event("response.created", response=begun) + self._event(
            "response.in_progress", response=begun
        )

    def _thought(self, text: str) -> bytes:
        """More of the thinking, which may have to begin."""
        events = b""
        if not self._thinking:
            item = {"id": self._thinking_id, "type": "reasoning", "summary": []}
            events = self._added(item)
        self._thinking += text
        return events + self._of_thinking("delta", delta=text)

    def _of_thinking(self, kind: str, **more: str) -> bytes:
        place = {"item_id": self._thinking_id, "output_index": self._index, "summary_index": 0}
        return self._event(f"response.reasoning_summary_text.{kind}", **place, **more)

    def _end_of_thinking(self) -> bytes:
        if not self._thinking:
            return b""
        text, self._thinking = self._thinking, ""
        events = self._of_thinking("done", text=text)
        item = _whole_thinking(self._thinking_id, text)
        return events + self._done(item)

    def _said(self, text: str) -> bytes:
        """More of the text, which may have to begin. Its index is that of the item beside it."""
        events = b""
        if self._text is None:
            self._text = ""
            head = {"status": "in_progress", "content": []}
            events = self._added(_message_item(self._message_id, "") | head)
            events += self._of_text("content_part.added", part=_text_part(""))
        self._text += text
        return events + self._of_text("output_text.delta", delta=text, logprobs=[])

    def _of_text(self, kind: str, **more: Any) -> bytes:
        place = {"item_id": self._message_id, "output_index": self._index, "content_index": 0}
        return self._event(f"response.{kind}", **place, **more)

    def _call(self, calls: Sequence[dict[str, Any]]) -> bytes:
        """Calls of tools, each whole."""
        self._called = True
        events = b""
        for index, call in enumerate(calls):
            seed = (self._seed + 3 + self._index) % _IDS
            item = _call_item(f"fc_{seed}_{index}", call)
            told = item["arguments"]
            place = {"item_id": item["id"], "output_index": self._index}
            events += self._added(item | {"status": "in_progress", "arguments": ""})
            events += self._event("response.function_call_arguments.delta", **place, delta=told)
            events += self._event("response.function_call_arguments.done", **place, arguments=told)
            events += self._done(item)
        return events

    def _added(self, item: dict[str, Any]) -> bytes:
        return self._event("response.output_item.added", output_index=self._index, item=item)

    def _done(self, item: dict[str, Any]) -> bytes:
        """An item is complete; the next one has the next index."""
        event = self._event("response.output_item.done", output_index=self._index, item=item)
        self._items.append(item)
        self._index += 1
        return event

    def _output(self) -> list[dict[str, Any]] | None:
        said = [] if self._text is None else [_message_item(self._message_id, self._text)]
        return [*self._items, *said] or None

    def _finish(self, line: dict[str, Any]) -> bytes:
        events = self._end_of_thinking()
        if self._text is not None and not self._called:
            item = _message_item(self._message_id, self._text)
            events += self._of_text("output_text.done", text=self._text, logprobs=[])
            events += self._of_text("content_part.done", part=_text_part(self._text))
            events += self._event("response.output_item.done", output_index=self._index, item=item)
        completed = self._object("completed", self._output(), _usage(line))
        completed["completed_at"] = unix_seconds(line.get("created_at", ""))
        return events + self._event("response.completed", response=completed)


def _text_part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _message_item(id: str, text: str) -> dict[str, Any]:
    content = [_text_part(text)]
    head = {"id": id, "type": "message", "status": "completed"}
    return head | {"role": "assistant", "content": content}


def _whole_thinking(id: str, text: str) -> dict[str, Any]:
    """What the model thought; its `encrypted_content` is plain, as in Ollama."""
    summary = [{"type": "summary_text", "text": text}]
    return {"id": id, "type": "reasoning", "summary": summary, "encrypted_content": text}


def _call_item(id: str, call: dict[str, Any]) -> dict[str, Any]:
    function = call.get("function", {})
    return {
        "id": id,
        "type": "function_call",
        "status": "completed",
        "call_id": call.get("id", ""),
        "name": function.get("name", ""),
        "arguments": dumps(function.get("arguments") or {}).decode(),
    }


def _usage(line: dict[str, Any]) -> dict[str, Any]:
    prompt, said = line.get("prompt_eval_count", 0), line.get("eval_count", 0)
    return {
        "input_tokens": prompt,
        "output_tokens": said,
        "total_tokens": prompt + said,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens_details": {"reasoning_tokens": 0},
    }
