import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.errors import EngineDied, EngineRefused
from serve.wire.collect import collect
from serve.wire.gojson import dumps
from tests.wire.golden import frames

TIMES = {"created_at", "total_duration", "load_duration", "prompt_eval_duration", "eval_duration"}


@pytest.mark.parametrize(
    ("streamed", "whole", "route"),
    [
        ("generate.stream", "generate.no_stream", "/api/generate"),
        ("chat.stream", "chat.no_stream", "/api/chat"),
        ("capabilities.thinking_chat", "capabilities.thinking_default", "/api/chat"),
    ],
)
def test_a_stream_makes_the_recorded_whole(streamed: str, whole: str, route: str) -> None:
    mine = json.loads(collect(frames(streamed), route))
    theirs = json.loads(frames(whole)[0])
    assert list(mine) == list(theirs)
    assert {k: v for k, v in mine.items() if k not in TIMES} == {
        k: v for k, v in theirs.items() if k not in TIMES
    }


@pytest.mark.parametrize(
    ("name", "route"),
    [
        ("generate.no_stream", "/api/generate"),
        ("generate.logprobs_no_stream", "/api/generate"),
        ("chat.no_stream", "/api/chat"),
        ("capabilities.thinking_default", "/api/chat"),
    ],
)
def test_a_whole_answer_is_left_byte_for_byte(name: str, route: str) -> None:
    assert collect(frames(name), route) == frames(name)[0]


def line(**fields: Any) -> bytes:
    return dumps({"model": "m", "created_at": "2026-11-23T14:27:00Z"} | fields) + b"\n"


@given(st.lists(st.text(max_size=5), min_size=1), st.lists(st.text(max_size=5)))
def test_any_split_of_a_text_makes_the_same_whole(parts: list[str], thoughts: list[str]) -> None:
    lines = [line(response="", thinking=thought, done=False) for thought in thoughts]
    lines += [line(response=part, done=False) for part in parts]
    lines.append(line(response="", done=True, done_reason="stop", eval_count=1))
    whole = json.loads(collect(lines, "/api/generate"))
    assert whole["response"] == "".join(parts)
    assert whole.get("thinking", "") == "".join(thoughts)
    assert ("thinking" in whole) == bool("".join(thoughts))


def test_fields_are_in_the_order_of_ollamas_generate() -> None:
    lines = [
        line(response="a", thinking="t", done=False, logprobs=[{"token": "a", "logprob": -1.5}]),
        line(
            response="b",
            done=True,
            done_reason="stop",
            context=[1],
            eval_count=2,
            tool_calls=[{"function": {"name": "f"}}],
            logprobs=[{"token": "b", "logprob": 0.0}],
            later={"x": 1},
        ),
    ]
    assert collect(lines, "/api/generate") == (
        b'{"model":"m","created_at":"2026-11-23T14:27:00Z","response":"ab","thinking":"t",'
        b'"done":true,"done_reason":"stop","context":[1],"eval_count":2,'
        b'"tool_calls":[{"function":{"name":"f"}}],"later":{"x":1},'
        b'"logprobs":[{"token":"a","logprob":-1.5},{"token":"b","logprob":0}]}'
    )


def test_fields_are_in_the_order_of_ollamas_chat() -> None:
    call = {"id": "c", "function": {"index": 0, "name": "f", "arguments": {"b": 1, "a": 2}}}
    lines = [
        line(message={"role": "assistant", "content": "a", "thinking": "t"}, done=False),
        line(
            message={"role": "assistant", "content": "", "tool_calls": [call]},
            done=False,
            logprobs=[{"token": "a"}],
        ),
        line(
            message={"role": "assistant", "content": "b<", "tool_calls": [call], "x": 1},
            done=True,
            done_reason="stop",
            total_duration=3,
        ),
    ]
    text = json.dumps(call, separators=(",", ":"))
    assert collect(lines, "/api/chat").decode() == (
        '{"model":"m","created_at":"2026-11-23T14:27:00Z","message":{"role":"assistant",'
        f'"content":"ab\\u003c","thinking":"t","tool_calls":[{text},{text}],"x":1}},'
        '"done":true,"done_reason":"stop","logprobs":[{"token":"a"}],"total_duration":3}'
    )


def test_logprobs_without_figures_come_last() -> None:
    lines = [
        line(message={"role": "assistant", "content": "a"}, done=False, logprobs=[{"token": "a"}])
    ]
    assert collect(lines, "/api/chat").endswith(b'"done":false,"logprobs":[{"token":"a"}]}')


def test_an_error_line_is_raised() -> None:
    with pytest.raises(EngineRefused, match="unexpected EOF") as refused:
        collect(frames("faults.runner_killed_generate_stream"), "/api/generate")
    assert refused.value.status == 500


@pytest.mark.parametrize("lines", [[], [b"\n"]])
def test_no_line_is_no_answer(lines: list[bytes]) -> None:
    with pytest.raises(EngineDied):
        collect(lines, "/api/chat")
