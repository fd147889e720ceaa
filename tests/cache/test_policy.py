import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.cache.control import Controls
from serve.cache.policy import CHAT, EMBED, EMBEDDINGS, GENERATE, gate, unworthy
from serve.settings import Policy
from tests.cache.world import CHATTED, EMBEDDED, GENERATED

PROMPT: dict[str, Any] = {"model": "m", "prompt": "The sky is"}
TALK: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
INPUT: dict[str, Any] = {"model": "m", "input": "hello"}


def with_options(**options: object) -> dict[str, Any]:
    return PROMPT | {"options": options}


def reason(route: str, native: dict[str, Any], policy: Policy = "deterministic") -> str | None:
    verdict = gate(route, native, policy)
    assert verdict.may_read is verdict.may_store is (verdict.reason is None)
    return verdict.reason


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0},
        {"temperature": 0.0},
        {"seed": 0},
        {"seed": 42, "temperature": 1},
        {"seed": 7.0},
        {"seed": 4294967294},
    ],
)
def test_what_an_engine_says_twice_is_cached(options: dict[str, object]) -> None:
    assert reason(GENERATE, with_options(**options)) is None
    assert reason(CHAT, TALK | {"options": options}) is None


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 0.8},
        {"temperature": None},
        {"temperature": False},
        {"temperature": "0"},
        {"top_k": 1},
        {"seed": -1},
        {"seed": None},
        {"seed": True},
        {"seed": "42"},
        {"seed": 0.5},
        {"seed": float("inf")},
        {"seed": 4294967295},  # llama.cpp's "draw one"
        {"seed": 4294967296 + 4294967295},
        {"Temperature": 0},  # options are matched by their exact name
    ],
)
def test_what_is_sampled_is_not(options: dict[str, object]) -> None:
    assert reason(GENERATE, with_options(**options)) == "sampled"
    assert reason(GENERATE, with_options(**options), "always") is None


@pytest.mark.parametrize("options", [None, [], "seed"])
def test_options_of_another_shape_are_sampled(options: object) -> None:
    assert reason(GENERATE, PROMPT | {"options": options}) == "sampled"


def test_a_temperature_outside_of_options_says_nothing() -> None:
    assert reason(GENERATE, PROMPT | {"temperature": 0, "seed": 1}) == "sampled"


@pytest.mark.parametrize(("route", "native"), [(EMBED, INPUT), (EMBEDDINGS, PROMPT)])
def test_embeddings_are_always_cached(route: str, native: dict[str, Any]) -> None:
    assert reason(route, native) is None


@pytest.mark.parametrize(("route", "native"), [(EMBED, INPUT), (GENERATE, with_options(seed=1))])
def test_off_is_off(route: str, native: dict[str, Any]) -> None:
    assert reason(route, native, "off") == "policy"


def test_other_routes_have_no_answers_to_keep() -> None:
    assert reason("/api/show", {"model": "m"}, "always") == "route"


@pytest.mark.parametrize(
    ("route", "native"),
    [
        (GENERATE, {"model": "m"}),
        (GENERATE, {"model": "m", "prompt": "", "options": {"seed": 1}}),
        (GENERATE, {"model": "m", "prompt": None, "keep_alive": 0}),
        (CHAT, {"model": "m"}),
        (CHAT, {"model": "m", "messages": [], "keep_alive": 0}),
        (EMBED, {"model": "m"}),
        (EMBED, {"model": "m", "input": ""}),
        (EMBED, {"model": "m", "input": []}),
        (EMBEDDINGS, {"model": "m", "prompt": ""}),
    ],
)
@pytest.mark.parametrize("policy", ["deterministic", "always"])
def test_loading_is_no_answer(route: str, native: dict[str, Any], policy: Policy) -> None:
    assert reason(route, native, policy) == "load"


def test_keep_alive_0_with_a_prompt_is_still_a_generation() -> None:
    assert reason(GENERATE, with_options(seed=1) | {"keep_alive": 0}) is None


@pytest.mark.parametrize("value", [True, 1, "yes"])
def test_rendering_is_no_answer(value: object) -> None:
    assert reason(GENERATE, with_options(seed=1) | {"_debug_render_only": value}) == "debug"


@pytest.mark.parametrize("value", [False, None])
def test_not_rendering_is_one(value: object) -> None:
    assert reason(GENERATE, with_options(seed=1) | {"_debug_render_only": value}) is None


@pytest.mark.parametrize("name", ["Model", "OPTIONS", "keep_Alive", "\u017ftream"])
def test_a_field_that_go_reads_under_another_case_is_left_alone(name: str) -> None:
    assert reason(GENERATE, with_options(seed=1) | {name: "x"}) == "spelling"


@pytest.mark.parametrize("name", ["maxTokens", "Metadata", "made_up"])
def test_a_field_that_go_does_not_know_is_not(name: str) -> None:
    assert reason(GENERATE, with_options(seed=1) | {name: "x"}) is None


def test_no_store_neither_reads_nor_stores() -> None:
    verdict = gate(GENERATE, with_options(seed=1), "deterministic", Controls(no_store=True))
    assert (verdict.may_read, verdict.may_store, verdict.reason) == (False, False, "no-store")


def test_no_cache_stores_what_it_did_not_read() -> None:
    verdict = gate(GENERATE, with_options(seed=1), "deterministic", Controls(no_cache=True))
    assert (verdict.may_read, verdict.may_store, verdict.reason) == (False, True, "no-cache")


def test_a_request_that_is_not_cached_anyhow_says_why() -> None:
    for asked in (Controls(no_store=True), Controls(no_cache=True)):
        assert gate(GENERATE, PROMPT, "deterministic", asked).reason == "sampled"


def done(**changes: object) -> bytes:
    line: dict[str, object] = {"model": "m", "response": "", "done": True, "done_reason": "stop"}
    return json.dumps(line | changes).encode()


def said(text: str = "hi", **changes: object) -> bytes:
    return json.dumps({"model": "m", "response": text, "done": False} | changes).encode()


def called(*calls: object) -> bytes:
    message = {"role": "assistant", "content": "", "tool_calls": list(calls)}
    return json.dumps({"model": "m", "message": message, "done": False}).encode()


CALL = {"id": "call_1", "function": {"index": 0, "name": "weather", "arguments": {"city": "Rome"}}}


@pytest.mark.parametrize("lines", [GENERATED, CHATTED, [done(response="all at once")]])
def test_a_whole_answer_is_kept(lines: list[bytes]) -> None:
    assert unworthy(GENERATE, PROMPT, lines) is None


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ([], "incomplete"),
        ([said()], "incomplete"),
        ([done(response="hi"), said()], "incomplete"),
        ([done(response="hi"), done()], "incomplete"),
        ([said(), b'{"error":"an error was encountered while running the model"}'], "error"),
        ([said(), b'{"error":""}'], "error"),
        ([done(error="x", response="hi")], "error"),
        ([done()], "empty"),
        ([said(""), done()], "empty"),
        ([b'{"message":{"role":"assistant","content":""},"done":true}'], "empty"),
        ([said(), done(done_reason="length")], "truncated"),
        ([said(), b"not json"], "malformed"),
        ([said(), b"[1]"], "malformed"),
        ([said(), b'{"response":5,"done":true}'], "malformed"),
        ([said(), b'{"response":"\xff","done":true}'], "malformed"),
        ([b'{"message":' * 100_000], "malformed"),
        ([said(), done(remote_host="https://ollama.com:443")], "remote"),
        ([called({"function": {"name": "weather", "arguments": '{"city"'}}), done()], "tool-json"),
        ([called({"function": {"name": "weather"}}), done()], "tool-json"),
        ([called({"function": {"name": "", "arguments": {}}}), done()], "tool-json"),
        ([called(CALL, {"function": {"name": "x", "arguments": []}}), done()], "tool-json"),
    ],
)
def test_other_answers_are_not(lines: list[bytes], why: str) -> None:
    assert unworthy(GENERATE, PROMPT, lines) == why


@pytest.mark.parametrize(
    "lines",
    [
        [said(""), done(thinking="hm")],
        [b'{"message":{"role":"assistant","thinking":"hm"},"done":false}', done()],
        [called(CALL), done()],
        [done(tool_calls=[CALL])],
    ],
)
def test_thinking_and_tool_calls_are_answers(lines: list[bytes]) -> None:
    assert unworthy(GENERATE, PROMPT, lines) is None


@pytest.mark.parametrize(("cap", "kept"), [(3, True), (2.5, True), (0, False), (-1, False)])
def test_a_cut_that_the_caller_asked_for_is_kept(cap: object, kept: bool) -> None:  # noqa: FBT001
    lines = [said(), done(done_reason="length")]
    why = unworthy(GENERATE, with_options(num_predict=cap), lines)
    assert why == (None if kept else "truncated")


@pytest.mark.parametrize("cap", ["3", True, None])
def test_a_cap_that_is_no_number_is_none(cap: object) -> None:
    lines = [said(), done(done_reason="length")]
    assert unworthy(GENERATE, with_options(num_predict=cap), lines) == "truncated"


def test_vectors_are_kept() -> None:
    assert unworthy(EMBED, INPUT, EMBEDDED) is None
    assert unworthy(EMBED, INPUT | {"input": ["hello"]}, EMBEDDED) is None
    assert unworthy(EMBEDDINGS, PROMPT, [b'{"embedding":[0.1,0.2]}']) is None


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b'{"embeddings":[]}', "empty"),
        (b'{"embeddings":[[]]}', "empty"),
        (b'{"embedding":[]}', "empty"),
        (b"{}", "empty"),
        (b'{"error":"x"}', "error"),
        (b'{"embeddings":[["a"]]}', "malformed"),
        (b"", "malformed"),
        (EMBEDDED[0][:-9], "malformed"),
    ],
)
def test_other_vectors_are_not(body: bytes, why: str) -> None:
    assert unworthy(EMBED, INPUT, [body]) == why


def test_a_batch_has_a_vector_for_each_input() -> None:
    assert unworthy(EMBED, INPUT | {"input": ["a", "b"]}, EMBEDDED) == "incomplete"


@given(st.lists(st.binary(max_size=80), max_size=4), st.sampled_from([GENERATE, CHAT, EMBED]))
def test_no_bytes_break_it(lines: list[bytes], route: str) -> None:
    assert unworthy(route, PROMPT, lines) is not None
