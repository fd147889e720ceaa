import json
import re
from typing import Any

import pytest

from serve.errors import BadRequest
from serve.wire.errors import openai_error
from serve.wire.gojson import dumps
from serve.wire.openai import created_s
from serve.wire.responses_request import responses_to_native
from serve.wire.responses_response import ResponseRenderer, response_seed
from serve.wire.responses_types import decode_responses
from tests.wire.golden import rows


@pytest.mark.parametrize("row", rows("responses_requests"), ids=lambda row: row["body"][:90])
def test_requests_become_native_ones_as_in_ollama(row: dict[str, Any]) -> None:
    try:
        native = responses_to_native(decode_responses(row["body"].encode()))
    except BadRequest as exc:
        rendered = openai_error(exc)
        assert (rendered.status, rendered.content_type, rendered.body.decode()) == (
            row["status"],
            row["type"],
            row["out"],
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
    return {"messages": []} | kept


def said(row: dict[str, Any]) -> str:
    request = decode_responses(row["body"].encode())
    lines = [line.encode() for line in row["lines"]]
    born = created_s(lines[0] if request.stream else lines[-1])
    renderer = ResponseRenderer(request, seed=response_seed(lines[0]), created=born)
    if request.stream:
        return b"".join(map(renderer.chunk, lines)).decode()
    return renderer.whole(lines).decode()


def anonymous(text: str) -> str:
    """With ids and times by the order in which they come."""
    seen: dict[str, str] = {}

    def named(found: re.Match[str]) -> str:
        return seen.setdefault(found[0], f"{found[1]}_#{len(seen)}")

    text = re.sub(r"\b((?:rs|fc)_resp|resp|msg|rs|fc)_\d+(?:_\d+)?", named, text)
    return re.sub(r'"(created|completed)_at":\d+', r'"\1_at":0', text)


@pytest.mark.parametrize("row", rows("responses_answers"), ids=lambda row: row["body"][:60])
def test_answers_are_said_as_ollama_says_them(row: dict[str, Any]) -> None:
    assert anonymous(said(row)) == anonymous(row["out"])


def _renderer(body: bytes = b'{"model":"m","input":"x","stream":true}') -> ResponseRenderer:
    return ResponseRenderer(decode_responses(body), seed=7, created=1)


def _events(said: bytes) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in said.splitlines() if line.startswith(b"data: ")]


LINE = b'{"model":"m","created_at":"2026-11-23T14:27:00Z","message":{"role":"assistant",%s}}\n'


def test_an_error_after_the_beginning_ends_the_stream_as_the_protocol_does() -> None:
    renderer = _renderer()
    renderer.chunk(LINE % b'"content":"","thinking":"hm"')
    begun = renderer.chunk(LINE % b'"content":"half"')
    last, failed = _events(renderer.chunk(b'{"error":"gone"}\n'))
    number = _events(begun)[-1]["sequence_number"] + 1
    expected = {"code": "server_error", "message": "gone", "param": None}
    assert last == expected | {"type": "error", "sequence_number": number}
    assert (failed["type"], failed["sequence_number"]) == ("response.failed", number + 1)
    told = failed["response"]
    assert (told["status"], told["completed_at"]) == ("failed", None)
    assert told["error"] == {"code": "server_error", "message": "gone"}
    assert [item["type"] for item in told["output"]] == ["reasoning", "message"]


def test_a_stream_that_fails_at_once_has_begun_all_the_same() -> None:
    said = _events(_renderer().error("gone"))
    kinds = ["response.created", "response.in_progress", "error", "response.failed"]
    assert [event["type"] for event in said] == kinds
    assert [event["sequence_number"] for event in said] == [0, 1, 2, 3]
    assert said[-1]["response"]["output"] == []


@pytest.mark.parametrize("row", rows("responses_answers"), ids=lambda row: row["body"][:60])
def test_the_same_lines_are_said_the_same_again(row: dict[str, Any]) -> None:
    assert said(row) == said(row)


def test_items_have_ids_of_their_own() -> None:
    renderer = _renderer()
    call = b'"tool_calls":[{"id":"c","function":{"name":"f","arguments":{}}}]'
    text = b"".join(
        renderer.chunk(LINE % part)
        for part in (b'"thinking":"a","content":""', call, b'"thinking":"b","content":""', call)
    )
    items = [e["item"]["id"] for e in _events(text) if e["type"] == "response.output_item.done"]
    assert len(items) == len(set(items)) == 4
