import json
from typing import Any

import pytest

from serve.errors import BadRequest
from serve.wire.openai_completions import (
    CompletionRenderer,
    completion_to_native,
    decode_completion,
)

LINES = [
    b'{"model":"m","created_at":"2026-11-23T14:27:00Z","response":"a<","done":false}',
    b'{"model":"m","created_at":"2026-11-23T14:27:01Z","response":"","done":true,'
    b'"done_reason":"length","prompt_eval_count":3,"eval_count":2}',
]
CHUNK = '{"id":"cmpl-7","object":"text_completion","created":5,"choices":'
REST = '"model":"m","system_fingerprint":"fp_ollama"'
ZERO = ',"usage":{"prompt_tokens":0,"completion_tokens":0,"total_tokens":0}'
USAGE = ',"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}'


def native(**asked: Any) -> dict[str, Any]:
    return completion_to_native(decode_completion(json.dumps({"model": "m", **asked}).encode()))


def said(**asked: Any) -> CompletionRenderer:
    return CompletionRenderer(decode_completion(json.dumps(asked).encode()), number=7, created=5)


def test_defaults_are_openais() -> None:
    defaults = {"temperature": 1.0, "frequency_penalty": 0.0, "presence_penalty": 0.0, "top_p": 1.0}
    assert native(prompt="x") == {"model": "m", "prompt": "x", "options": defaults}
    assert native(temperature=0, top_p=0)["options"] == defaults | {"temperature": 0}


def test_what_is_asked_is_passed_on() -> None:
    asked = native(
        prompt="x",
        suffix="y",
        max_tokens=3,
        seed=4,
        stop="z",
        logprobs=2,
        echo=True,
        options={"num_ctx": 1},
    )
    assert asked["suffix"] == "y"
    assert asked["options"] | {"num_predict": 3, "seed": 4, "stop": ["z"]} == asked["options"]
    assert (asked["logprobs"], asked["top_logprobs"]) == (True, 2)
    assert "echo" not in asked
    assert "num_ctx" not in asked["options"]
    assert "logprobs" not in native(logprobs=0)
    assert "stop" not in native(stop=3)["options"]
    assert "stop" not in native(stop=[])["options"]


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        ({"stop": ["a", 1]}, "invalid type for 'stop' field: float64"),
        ({"stop": [None]}, "invalid type for 'stop' field: <nil>"),
        (
            {"prompt": ["a"]},
            "json: cannot unmarshal array into Go struct field CompletionRequest.prompt of type"
            " string",
        ),
        (
            {"top_p": 1e39},
            "json: cannot unmarshal number 1e+39 into Go struct field CompletionRequest.top_p of"
            " type float32",
        ),
    ],
)
def test_refusals(asked: dict[str, Any], text: str) -> None:
    with pytest.raises(BadRequest) as refused:
        native(**asked)
    assert str(refused.value) == text


def test_a_stream() -> None:
    renderer = said()
    assert renderer.chunk(LINES[0]).decode() == (
        f'data: {CHUNK}[{{"text":"a\\u003c","index":0,"finish_reason":null}}],{REST}}}\n\n'
    )
    assert renderer.chunk(LINES[1]).decode() == (
        f'data: {CHUNK}[{{"text":"","index":0,"finish_reason":"length"}}],{REST}}}\n\n'
        "data: [DONE]\n\n"
    )


def test_a_stream_with_usage() -> None:
    renderer = said(stream_options={"include_usage": True})
    assert ZERO in renderer.chunk(LINES[0]).decode()
    last = renderer.chunk(LINES[1]).decode()
    assert last.endswith(f"data: {CHUNK}[],{REST}{USAGE}}}\n\ndata: [DONE]\n\n")
    assert last.count(ZERO) == 1


def test_an_answer() -> None:
    assert said().whole(LINES).decode() == (
        f'{{"id":"cmpl-7","object":"text_completion","created":5,{REST},'
        f'"choices":[{{"text":"a\\u003c","index":0,"finish_reason":"length"}}]{USAGE}}}\n'
    )


def test_an_error_in_a_stream_is_an_event() -> None:
    error = b'data: {"error":{"message":"no","type":"api_error","param":null,"code":null}}\n\n'
    assert said().chunk(b'{"error":"no"}') == said().error("no") == error
