import json
import re
from typing import Any

import pytest

from serve.errors import BadRequest, NotFound
from serve.wire.errors import openai_error
from serve.wire.gojson import dumps
from serve.wire.openai import (
    ChatRenderer,
    completion_id,
    created_s,
    decode_chat,
    model_one,
    models_list,
    to_native,
)
from tests.wire.golden import frames, recorded, rows

LINE = b'{"model":"m","created_at":"2026-11-23T14:27:00Z","message":{"role":"a","content":"b"}}\n'


@pytest.mark.parametrize("row", rows("chat_requests"), ids=lambda row: row["body"][11:90])
def test_requests_become_native_ones_as_in_ollama(row: dict[str, Any]) -> None:
    try:
        native = to_native(decode_chat(row["body"].encode()))
    except BadRequest as exc:
        rendered = openai_error(exc)
        assert (rendered.status, rendered.content_type, rendered.body.decode()) == (
            row["status"],
            row["type"],
            row["out"],
        )
    else:
        assert json.loads(dumps(native)) == _without_nulls(row["native"])


def _without_nulls(native: dict[str, Any]) -> dict[str, Any]:
    """Go prints some nulls that mean what an absent field means."""
    options = {name: value for name, value in native["options"].items() if value is not None}
    kept = {name: value for name, value in native.items() if value is not None}
    return {"messages": []} | kept | {"options": options}


@pytest.mark.parametrize(
    "name",
    [
        "chat_reasoning_bad",
        "chat_empty_messages",
        "chat_no_messages",
        "chat_empty_body",
        "chat_temperature_string",
    ],
)
def test_the_recorded_refusals(name: str) -> None:
    exchange = recorded(f"openai.{name}")
    with pytest.raises(BadRequest) as refused:
        to_native(decode_chat(exchange["body"].encode()))
    rendered = openai_error(refused.value)
    assert rendered.body.decode() == exchange["frames"][0]
    assert rendered.content_type == exchange["type"]


def test_unknown_fields_of_tools_survive() -> None:
    tool = {"type": "function", "x": 1, "function": {"name": "f", "strict": True}}
    body = dumps({"TOOLS": [tool], "messages": [{"role": "user", "content": "x"}], "n": 2})
    native = to_native(decode_chat(body))
    assert native["tools"] == [tool]
    assert "n" not in native


@pytest.mark.parametrize("row", rows("chat_answers"), ids=lambda row: row["out"][:60])
def test_answers_are_said_as_ollama_says_them(row: dict[str, Any]) -> None:
    request = decode_chat(row["body"].encode())
    lines = [line.encode() for line in row["lines"]]
    found = re.search(r"chatcmpl-\d+", row["out"])
    assert found is not None
    born = created_s(lines[0] if request.stream else lines[-1])
    renderer = ChatRenderer(request, id=found[0], created=born)
    said = b"".join(map(renderer.chunk, lines)) if request.stream else renderer.whole(lines)
    assert said.decode() == row["out"]


def _native(name: str) -> tuple[dict[str, Any], list[bytes]]:
    """The native lines that must have been behind a recorded stream of events."""
    events = [e[6:] for f in frames(name) for e in f.decode().split("\n\n") if e.startswith("data")]
    chunks = [json.loads(event) for event in events if event != "[DONE]"]
    lines = []
    for chunk in chunks:
        base = {"model": chunk["model"], "created_at": "2026-11-23T14:27:00Z"}
        for choice in chunk["choices"]:
            delta = choice["delta"]
            message = {"role": "assistant", "content": delta.get("content", "")}
            message |= {"thinking": delta["reasoning"]} if "reasoning" in delta else {}
            end = {"done": bool(choice["finish_reason"])}
            end |= {"done_reason": choice["finish_reason"]} if end["done"] else {}
            lines.append(base | {"message": message} | end)
    for usage in (chunk["usage"] for chunk in chunks if "usage" in chunk):
        lines[-1]["prompt_eval_count"] = usage["prompt_tokens"]
        lines[-1]["eval_count"] = usage["completion_tokens"]
    return chunks[0], [dumps(line) + b"\n" for line in lines]


@pytest.mark.parametrize(
    "name",
    ["openai.chat_stream", "openai.chat_stream_usage", "capabilities.thinking_openai_stream"],
)
def test_the_recorded_streams(name: str) -> None:
    first, lines = _native(name)
    request = decode_chat(recorded(name)["body"].encode())
    renderer = ChatRenderer(request, id=first["id"], created=first["created"])
    assert [renderer.chunk(line) for line in lines] == frames(name)


def test_an_error_after_the_beginning_is_an_event() -> None:
    request = decode_chat(b'{"messages":[{}],"stream":true}')
    renderer = ChatRenderer(request, id="chatcmpl-1", created=1)
    renderer.chunk(LINE)
    event = b'data: {"error":{"message":"gone","type":"api_error","param":null,"code":null}}\n\n'
    assert renderer.chunk(b'{"error":"gone"}\n') == event
    assert renderer.error("gone") == event


def test_the_same_lines_are_said_the_same_again() -> None:
    request = decode_chat(b'{"messages":[{}]}')
    said = [ChatRenderer(request, id="chatcmpl-1", created=1).whole([LINE]) for _ in range(2)]
    assert said[0] == said[1]
    assert said[0].endswith(b"}\n")


def test_debug_information_is_passed_on() -> None:
    line = LINE.replace(b'"message"', b'"_debug_info":{"rendered_template":"x"},"message"')
    request = decode_chat(b'{"messages":[{}]}')
    body = json.loads(ChatRenderer(request, id="chatcmpl-1", created=1).whole([line]))
    assert body["_debug_info"] == {"rendered_template": "x"}


def test_ids_are_below_999() -> None:
    assert completion_id(998) == "chatcmpl-998"
    assert completion_id(999) == "chatcmpl-0"


def test_a_line_without_a_time_was_made_at_the_epoch() -> None:
    assert created_s(b"{}") == 0


def test_the_recorded_models() -> None:
    tags = frames("models.tags")[0]
    assert models_list(tags) == frames("models.v1_models")[0]
    assert model_one(tags, "smollm2:135m") == frames("models.v1_model")[0]
    with pytest.raises(NotFound) as missing:
        model_one(tags, "nope")
    rendered = openai_error(missing.value, "model")
    assert rendered.body == frames("models.v1_model_unknown")[0]


def test_a_model_is_found_in_any_spelling_and_named_as_asked() -> None:
    row = {"name": "User/M:latest", "modified_at": "1970-01-01T00:00:05.9Z"}
    tags = dumps({"models": [row]})
    assert json.loads(model_one(tags, "uSer/m")) == {
        "id": "uSer/m",
        "object": "model",
        "created": 5,
        "owned_by": "uSer",
    }


def test_no_models_are_a_null() -> None:
    assert models_list(b'{"models":[]}') == b'{"object":"list","data":null}\n'
    assert models_list(b'{"models":null}') == b'{"object":"list","data":null}\n'


def test_a_row_without_a_valid_name_has_no_owner() -> None:
    assert b'"owned_by":""' in models_list(b'{"models":[{"model":""}]}')
