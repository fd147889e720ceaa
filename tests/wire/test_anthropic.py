import json
import re
from typing import Any

import pytest

from serve.conformance.replay import Case, cases
from serve.errors import BadRequest
from serve.wire.anthropic_request import messages_to_native
from serve.wire.anthropic_response import MessageRenderer, message_id
from serve.wire.anthropic_types import decode_messages
from serve.wire.errors import anthropic_error
from serve.wire.gojson import dumps
from tests.wire.golden import rows

RECORDED = {case.id.partition("/")[2]: case for case in cases("anthropic", "capabilities")}


@pytest.mark.parametrize("row", rows("messages_requests"), ids=lambda row: row["body"][:90])
def test_requests_become_native_ones_as_in_ollama(row: dict[str, Any]) -> None:
    try:
        native = messages_to_native(decode_messages(row["body"].encode()))
    except BadRequest as exc:
        rendered = anthropic_error(exc)
        assert (rendered.status, rendered.content_type, _anonymous(rendered.body)) == (
            row["status"],
            row["type"],
            _anonymous(row["out"].encode()),
        )
    else:
        assert json.loads(dumps(native)) == _as_we_say_it(row["native"])


def _as_we_say_it(native: dict[str, Any]) -> dict[str, Any]:
    """Without what Go prints although it means what an absent field means."""
    kept = {name: value for name, value in native.items() if value is not None}
    kept.pop("stream")  # what the engine is asked for is always a stream
    for tool in kept.get("tools", []):
        function = tool["function"]
        if function["parameters"] == {"type": "", "properties": None}:
            del function["parameters"]
    for message in native["messages"] or ():
        for call in message.get("tool_calls", ()):  # a null is no argument, as {} is
            call["function"]["arguments"] = call["function"]["arguments"] or {}
    return {"messages": []} | kept


def _anonymous(body: bytes) -> str:
    return re.sub(r"\b(req|msg)_[0-9a-f]{24}", r"\1_#", body.decode())


def said(body: bytes, lines: list[bytes]) -> bytes:
    request = decode_messages(body)
    renderer = MessageRenderer(request, id=message_id(lines[0]))
    if request.stream:
        return b"".join(map(renderer.chunk, lines))
    return renderer.whole(lines)


@pytest.mark.parametrize("row", rows("messages_answers"), ids=lambda row: str(row["lines"])[:80])
def test_answers_are_said_as_ollama_says_them(row: dict[str, Any]) -> None:
    lines = [line.encode() for line in row["lines"]]
    answer = said(row["body"].encode(), lines)
    assert _anonymous(answer) == _anonymous(row["out"].encode())
    assert said(row["body"].encode(), lines) == answer


def _events(text: str) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: ")]


def _lines(case: Case) -> list[bytes]:
    """The native lines that must have been behind a recorded stream."""
    lines: list[dict[str, Any]] = []
    for event in _events(case.recorded.body):
        base = {"model": json.loads(case.body or "")["model"], "created_at": "2026-11-23T14:27:00Z"}
        if event["type"] == "content_block_delta":
            delta = event["delta"]
            message = {"role": "assistant", "content": delta.get("text", "")}
            message |= {"thinking": delta["thinking"]} if "thinking" in delta else {}
            lines.append(base | {"message": message, "done": False})
        if event["type"] == "message_delta":
            reason = {"end_turn": "stop", "max_tokens": "length"}[event["delta"]["stop_reason"]]
            end = {"message": {"role": "assistant", "content": ""}, "done": True}
            usage = event["usage"]
            counts = {"prompt_eval_count": usage["input_tokens"], "done_reason": reason}
            lines.append(base | end | counts | {"eval_count": usage["output_tokens"]})
    return [dumps(line) + b"\n" for line in lines]


@pytest.mark.parametrize("name", ["messages_stream", "thinking_anthropic_stream"])
def test_the_recorded_streams(name: str) -> None:
    case = RECORDED[name]
    answer = said((case.body or "").encode(), _lines(case))
    assert _anonymous(answer) == _anonymous(case.recorded.body.encode())


@pytest.mark.parametrize(
    "name",
    [case.id.partition("/")[2] for case in cases("anthropic") if case.recorded.status == 400],
)
def test_the_recorded_refusals(name: str) -> None:
    case = RECORDED[name]
    if name == "messages_tools_unsupported":
        pytest.skip("the engine's word, not that of the translation")
    with pytest.raises(BadRequest) as refused:
        messages_to_native(decode_messages((case.body or "").encode()))
    rendered = anthropic_error(refused.value)
    assert _anonymous(rendered.body) == _anonymous(case.recorded.body.encode())


def test_an_error_after_the_beginning_is_an_event() -> None:
    body = b'{"model":"m","max_tokens":9,"stream":true,"messages":[{"role":"user","content":"x"}]}'
    line = b'{"model":"m","message":{"role":"assistant","content":"half"}}\n'
    renderer = MessageRenderer(decode_messages(body), id="msg_1")
    renderer.chunk(line)
    event = (
        b'event: error\ndata: {"type":"error","error":{"type":"api_error","message":"gone"}}\n\n'
    )
    assert renderer.chunk(b'{"error":"gone"}\n') == event
    assert renderer.error("gone") == event
