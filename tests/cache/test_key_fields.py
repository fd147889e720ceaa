"""The walk: every field of every request type is in the key, is refused, or has been reviewed.

Each pair of bodies goes the way that it goes in an ingress: dialect, native request, key. A field
that a client library brings tomorrow fails here until it is in the key or on the list.
"""

import json
import sys
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import pytest
from anthropic.types.message_create_params import MessageCreateParamsNonStreaming
from hypothesis import given
from hypothesis import strategies as st
from ollama import _types as ollama_types
from openai.types import completion_create_params, embedding_create_params
from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming
from openai.types.responses.response_create_params import ResponseCreateParamsNonStreaming

from serve.cache import batch
from serve.cache.key import request_key
from serve.cache.reviewed import IGNORED, IGNORED_WHEN_GREEDY, UNTOLD
from serve.errors import BadRequest, EngineInvalid
from serve.web import dialects, v1
from serve.web.exchange import Exchange
from serve.wire import native
from serve.wire.anthropic_types import MessagesRequest
from serve.wire.fields import FIELDS as FIELDS_OF
from serve.wire.fields import fate
from serve.wire.openai_completions import CompletionRequest
from serve.wire.openai_embeddings import EmbeddingsRequest
from serve.wire.openai_types import ChatCompletionRequest
from serve.wire.responses_types import ResponsesRequest
from tests.cache.request_fields import PIXEL, Case, walk

GENERATE, CHAT = "/api/generate", "/api/chat"
EMBED, EMBEDDINGS, V1 = "/api/embed", "/api/embeddings", "/v1/chat/completions"
V1_COMPLETIONS, V1_EMBEDDINGS = "/v1/completions", "/v1/embeddings"
MESSAGES, RESPONSES = "/v1/messages", "/v1/responses"
SAID: dict[str, Any] = {
    "model": "m",
    "max_tokens": 9,
    "messages": [{"role": "user", "content": "hi"}],
}
PROMPT: dict[str, Any] = {"model": "m", "prompt": "hi"}
TALK: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
INPUT: dict[str, Any] = {"model": "m", "input": "hi"}
DIALECTS: dict[str, Callable[[Exchange], dialects.Asked]] = {
    GENERATE: dialects.GenerationRoute(GENERATE, native.GenerateRequest),
    CHAT: dialects.GenerationRoute(CHAT, native.ChatRequest),
    EMBED: dialects.EmbeddingRoute(EMBED, native.EmbedRequest),
    EMBEDDINGS: dialects.EmbeddingRoute(EMBEDDINGS, native.EmbeddingsRequest),
    V1: dialects.chat_completions,
    **v1.V1,
}
TYPES: list[tuple[str, str, type, dict[str, Any]]] = [
    ("ollama", GENERATE, ollama_types.GenerateRequest, PROMPT),
    ("ollama", CHAT, ollama_types.ChatRequest, TALK),
    ("ollama", EMBED, ollama_types.EmbedRequest, INPUT),
    ("ollama", EMBEDDINGS, ollama_types.EmbeddingsRequest, PROMPT),
    ("openai", V1, CompletionCreateParamsNonStreaming, TALK),
    ("ours", GENERATE, native.GenerateRequest, PROMPT),
    ("ours", CHAT, native.ChatRequest, TALK),
    ("ours", EMBED, native.EmbedRequest, INPUT),
    ("ours", EMBEDDINGS, native.EmbeddingsRequest, PROMPT),
    ("ours", V1, ChatCompletionRequest, TALK),
    (
        "openai",
        V1_COMPLETIONS,
        completion_create_params.CompletionCreateParamsNonStreaming,
        PROMPT,
    ),
    ("ours", V1_COMPLETIONS, CompletionRequest, PROMPT),
    ("openai", V1_EMBEDDINGS, embedding_create_params.EmbeddingCreateParams, INPUT),
    ("ours", V1_EMBEDDINGS, EmbeddingsRequest, INPUT),
    ("anthropic", MESSAGES, MessageCreateParamsNonStreaming, SAID),
    ("ours", MESSAGES, MessagesRequest, SAID),
    ("openai", RESPONSES, ResponseCreateParamsNonStreaming, INPUT),
    ("ours", RESPONSES, ResponsesRequest, INPUT),
]

OPTIONS = {
    **dict.fromkeys(("num_ctx", "num_batch", "num_gpu", "main_gpu", "num_thread", "seed"), 7),
    **dict.fromkeys(("num_keep", "num_predict", "top_k", "repeat_last_n", "draft_num_predict"), 7),
    **dict.fromkeys(("top_p", "min_p", "typical_p", "temperature", "repeat_penalty"), 0.25),
    **dict.fromkeys(("presence_penalty", "frequency_penalty"), 0.25),
    "use_mmap": True,
    "stop": ["x"],
    "mirostat": 1,
    "made_up": 1,
}
SAMPLED = {
    "keep_alive": "7m",
    "stream": False,
    "model": "other",
    "format": "json",
    "think": "low",
    "truncate": False,
    "shift": False,
    "logprobs": True,
    "top_logprobs": 3,
    "_debug_render_only": True,
    "made_up": 1,
    **{f"options.{name}": value for name, value in OPTIONS.items()},
}
BLOCKS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "text": ({"type": "text", "text": "a"}, {"type": "text", "text": "b"}),
    "thinking": ({"type": "thinking", "thinking": "a"}, {"type": "thinking", "thinking": "b"}),
    "tool_use_id": (
        {"type": "tool_result", "tool_use_id": "a"},
        {"type": "tool_result", "tool_use_id": "b"},
    ),
    "content": (
        {"type": "tool_result", "content": "a"},
        {"type": "tool_result", "content": "b"},
    ),
    "source.data": (
        {"type": "image", "source": {"type": "base64", "data": PIXEL}},
        {"type": "image", "source": {"type": "base64", "data": "iVBORw0KGgr/"}},
    ),
}
"""Blocks of a message that differ in a field which other types of blocks don't have."""
NAMESPACE = {"type": "namespace", "name": "n", "tools": [{"type": "function", "name": "f"}]}
CALL = {"id": "c", "function": {"index": 1, "name": "f", "arguments": {"a": 1}}}
REFERENCE: dict[str, dict[str, Any]] = {
    GENERATE: SAMPLED
    | {"prompt": "x", "suffix": "x", "system": "x", "template": "x", "context": [1]}
    | {"raw": True, "images": [PIXEL]},
    CHAT: SAMPLED
    | {"tools": [{"type": "function", "function": {"name": "f"}}]}
    | {"messages": [{"role": "user", "content": "x"}]}
    | {
        f"messages.{name}": [{"role": "user", "content": "hi", name: value}]
        for name, value in {
            "role": "system",
            "content": "x",
            "thinking": "x",
            "images": [PIXEL],
            "tool_calls": [CALL],
            "tool_name": "x",
            "tool_call_id": "x",
            "made_up": 1,
        }.items()
    },
    EMBED: {"input": ["x"], "truncate": False, "dimensions": 7, "keep_alive": "7m"}
    | {"model": "other", "options.num_ctx": 7, "made_up": 1},
    EMBEDDINGS: {"prompt": "x", "keep_alive": "7m", "model": "other", "options.num_ctx": 7},
    V1: {"model": "other", "messages": [{"role": "user", "content": "x"}], "stream": True}
    | {"stream_options": {"include_usage": True}, "max_tokens": 7, "seed": 7, "stop": ["x"]}
    | {"temperature": 0.25, "top_p": 0.25, "frequency_penalty": 1, "presence_penalty": 1}
    | {"response_format": {"type": "json_object"}, "reasoning": {"effort": "low"}}
    | {"tools": [{"type": "function", "function": {"name": "f"}}], "reasoning_effort": "low"}
    | {"logprobs": True, "top_logprobs": 3, "n": 2, "tool_choice": "none", "logit_bias": {"1": 1}}
    | {"user": "x", "max_completion_tokens": 7, "parallel_tool_calls": True, "store": True}
    | {"metadata": {"a": "b"}},
    MESSAGES: {"thinking": {"type": "enabled"}, "thinking.type": {"type": "disabled"}}
    | {"output_config": {"effort": "low"}, "output_config.effort": {"effort": "xhigh"}}
    | {"system": [{"type": "text", "text": "x"}], "temperature": 0.25, "top_k": 3, "max_tokens": 7}
    | {"tools": [{"name": "f"}], "tools.type": [{"type": "web_search_20250305", "name": "f"}]}
    | {"stop_sequences": ["x"], "stream": True, "model": "other"},
}
"""The fields of Ollama 0.33's own structs (api/types.go, openai/openai.go), each as a request may
say it: the value of the top-level field, or of the message or option, that the name stands for."""


Walked = dict[tuple[str, str, str], list[Case]]


def refused(route: str, path: str) -> bool:
    """Does the field make a request a 400, as in Ollama? Then nothing is cached."""
    found = fate(route, path) if route in FIELDS_OF else None
    return found is not None and found.what == "refused"


def key(route: str, body: Mapping[str, Any]) -> bytes:
    """The way of a request through the ingress, as far as its key."""

    async def nothing(*_: Any) -> Any:
        raise AssertionError

    exchange = Exchange(route, {}, "id", nothing, nothing)
    exchange.body = json.dumps(body).encode()
    asked = DIALECTS[route](exchange)
    keyed = batch.keyed(asked.route, asked.meaning)
    return request_key(asked.route, keyed, digest="d", fingerprint="f", tenant="t")


def verdict(route: str, cases: list[Case]) -> str:
    """`key` where any other value has another key; `refused` where none is accepted."""
    found = {one for case in cases for one in _verdicts(route, case)}
    return next((one for one in ("key", "same") if one in found), "refused")


def _verdicts(route: str, case: Case) -> Iterator[str]:
    try:
        base = key(route, case.base)
        for other in case.others:
            try:
                yield "same" if key(route, other) == base else "key"
            except (BadRequest, EngineInvalid):
                yield "refused"
    except (BadRequest, EngineInvalid):
        yield "refused"


def _is_taken(route: str, case: Case) -> bool:
    try:
        key(route, case.base)
    except (BadRequest, EngineInvalid):
        return False
    return True


def _untangled(found: Walked) -> Walked:
    """Without what says nothing of its own field: within items and blocks of a library that are
    refused whole, and of items of an input what our own types have, which are walked whole."""
    kept: Walked = {}
    for (whose, route, path), cases in found.items():
        given = cases
        if whose in ("openai", "anthropic") and route in (MESSAGES, RESPONSES) and "." in path:
            is_ours = path.startswith("input.") and ("ours", route, path) in found
            given = [] if is_ours else [case for case in cases if _is_taken(route, case)]
        if given:
            kept[whose, route, path] = given
    return kept


def walked() -> Walked:
    """The cases of each field, by whose type it is in, route and path."""
    found: Walked = {}
    for whose, route, kind, base in TYPES:
        for case in walk(kind, base):
            found.setdefault((whose, route, case.path), []).append(case)
    found = _untangled(found)
    for path, (one, other) in BLOCKS.items():
        bodies = [SAID | {"messages": [{"role": "user", "content": [b]}]} for b in (one, other)]
        found["ours", MESSAGES, f"messages.content.{path}"].append(
            Case(path, bodies[0], bodies[1:])
        )
    case = Case(
        "tools.tools",
        INPUT | {"tools": [NAMESPACE]},
        [INPUT | {"tools": [{**NAMESPACE, "tools": []}]}],
    )
    found["ours", RESPONSES, "tools.tools"].append(case)
    for route, fields in REFERENCE.items():
        base = TALK if route in (CHAT, V1) else INPUT if route == EMBED else PROMPT
        base = SAID if route == MESSAGES else base
        for path, value in fields.items():
            top, _, option = path.partition(".")
            told = {option: value} if top == "options" else value
            case = Case(path, base, [base | {top: told}])
            found["reference", route, path] = [case]
            for whose in ("ours", "anthropic") if route == MESSAGES else ():
                found.get((whose, route, path), []).append(case)
    return found


FIELDS = walked()
UNTOLD_PATHS = {(route, path) for route, untold in UNTOLD.items() for path in untold}
REVIEWED = {*IGNORED, *IGNORED_WHEN_GREEDY, *UNTOLD_PATHS}
SHAPED = {"format": "json", "think": True, "tools": [], "made_up": 1, "truncate": False}


def reviewed(route: str, path: str) -> bool:
    """Is the field, or one that it is part of, on the list?"""
    names = path.split(".")
    parts = {".".join(names[:length]) for length in range(1, len(names) + 1)}
    return names[0] in IGNORED or not parts.isdisjoint(UNTOLD.get(route, ()))


@pytest.mark.parametrize(("whose", "route", "path"), FIELDS)
def test_every_field_is_in_the_key_or_refused_or_reviewed(
    whose: str, route: str, path: str
) -> None:
    found = verdict(route, FIELDS[whose, route, path])
    if found != "key" and not reviewed(route, path):  # it may say nothing without its members
        found = next((one for one in _of_members(whose, route, path) if one == "key"), found)
    if refused(route, path):
        assert found == "refused"
    else:
        assert found == ("same" if reviewed(route, path) else "key")


def _of_members(whose: str, route: str, path: str) -> Iterator[str]:
    for field, cases in FIELDS.items():
        if field[:2] == (whose, route) and field[2].startswith(path + "."):
            yield verdict(route, cases)


def test_what_was_reviewed_exists() -> None:
    paths = {path for _, _, path in FIELDS}
    assert set(IGNORED) <= paths
    assert {(route, path) for _, route, path in FIELDS} >= UNTOLD_PATHS
    assert {f"options.{name}" for name in IGNORED_WHEN_GREEDY} <= paths


def test_how_many_there_are() -> None:
    """`pytest -rP` shows the line."""
    counts = Counter(verdict(route, cases) for (_, route, _), cases in FIELDS.items())
    sys.stdout.write(f"{len(FIELDS)} fields walked: {dict(counts)}; reviewed: {len(REVIEWED)}\n")
    assert counts["key"] > 400
    assert len(REVIEWED) == 230


names = st.text(min_size=1, max_size=6)
schemas = st.dictionaries(names, st.integers(), min_size=2, max_size=5)


@given(st.permutations(list(TALK | SHAPED)), st.permutations(list(OPTIONS)))
def test_the_order_of_fields_and_of_options_means_nothing(top: list[str], inner: list[str]) -> None:
    options = {name: OPTIONS[name] for name in inner}
    whole = TALK | SHAPED | {"options": OPTIONS}
    assert key(CHAT, {name: whole[name] for name in top} | {"options": options}) == key(CHAT, whole)


@pytest.mark.parametrize("route", [CHAT, V1])
@given(schemas)
def test_the_order_inside_of_tools_formats_and_arguments_counts(
    route: str, schema: dict[str, int]
) -> None:
    turned = dict(reversed(schema.items()))
    for shaped in (_format, _tool, partial(_call, route)):
        assert key(route, TALK | shaped(schema)) != key(route, TALK | shaped(turned))


def _format(schema: dict[str, int]) -> dict[str, Any]:
    wanted = {"type": "json_schema", "json_schema": {"schema": schema}}
    return {"format": schema, "response_format": wanted}


def _tool(schema: dict[str, int]) -> dict[str, Any]:
    properties = {name: {"description": str(value)} for name, value in schema.items()}
    return {"tools": [{"type": "function", "function": {"parameters": {"properties": properties}}}]}


def _call(route: str, arguments: dict[str, int]) -> dict[str, Any]:
    told = json.dumps(arguments) if route == V1 else arguments
    call = {"function": {"name": "f", "arguments": told}}
    return {"messages": [{"role": "assistant", "content": "", "tool_calls": [call]}]}


@given(st.binary(min_size=1), st.binary(min_size=1), st.sampled_from(["png", "jpeg", "webp"]))
def test_images_count_by_what_is_in_them(one: bytes, other: bytes, kind: str) -> None:
    def shown(image: bytes, kind: str) -> bytes:
        url = f"data:image/{kind};base64,{b64encode(image).decode()}"
        part = {"type": "image_url", "image_url": {"url": url}}
        return key(V1, TALK | {"messages": [{"role": "user", "content": [part]}]})

    images = [b64encode(one).decode()]
    natively = {"messages": [{"role": "user", "content": "", "images": images}]}
    greedy = {"options": {"temperature": 1.0, "top_p": 1.0}}
    assert shown(one, kind) == shown(one, "jpg") == key(CHAT, TALK | natively | greedy)
    assert (shown(one, kind) == shown(other, kind)) is (one == other)


@pytest.mark.parametrize("route", DIALECTS)
@given(names.filter(str.isascii), st.integers())
def test_unknown_fields_count(route: str, name: str, value: int) -> None:
    """Whether an engine sees them, as natively, or not."""
    body = TALK | PROMPT | INPUT | SAID
    unknown = {f"made_up_{name}": value}
    assert key(route, body | unknown) not in (
        key(route, body),
        key(route, body | dict.fromkeys(unknown)),
    )


@pytest.mark.parametrize("route", [route for route in DIALECTS if route.startswith("/v1/")])
@given(st.permutations(["a", "b"]), st.permutations(["x", "y", "z"]))
def test_the_order_of_unknown_fields_and_within_them_means_nothing(
    route: str, top: list[str], inner: list[str]
) -> None:
    body = TALK | PROMPT | INPUT | SAID
    values: dict[str, Any] = {"a": 1, "b": [{"x": 1, "y": {"x": 1}, "z": None}]}
    turned = {"a": 1, "b": [{name: values["b"][0][name] for name in inner}]}
    whole = key(route, body | {f"made_up_{name}": value for name, value in values.items()})
    assert key(route, {f"made_up_{name}": turned[name] for name in top} | body) == whole


@pytest.mark.parametrize("route", [route for route in DIALECTS if route.startswith("/v1/")])
def test_known_fields_that_change_nothing_are_not_unknown(route: str) -> None:
    """Those that the table says are ignored, and the labels that other routes have."""
    body = TALK | PROMPT | INPUT | SAID
    names = [path for path, told in FIELDS_OF[route].items() if told.what == "ignored"]
    labels = [name for name in (*names, *IGNORED) if "." not in name and name not in body]
    assert {"user", "metadata", "store", "keep_alive"} <= {*labels}
    for name in {*labels} - {"stream"}:
        for spelled in (name, name.upper()):
            try:
                assert key(route, body | {spelled: {"user_id": "x"}}) == key(route, body), name
            except BadRequest:  # Ollama has a type for it, and reads it for nothing else
                assert FIELDS_OF[route][name].what == "ignored"


def test_what_an_engine_is_told_natively_shares_nothing_with_what_it_is_not_told() -> None:
    greedy = {"options": {"temperature": 1.0, "top_p": 1.0}}
    assert key(V1, TALK) == key(CHAT, TALK | greedy)
    unknown = {"made_up": 1}
    assert key(V1, TALK | unknown) != key(CHAT, TALK | greedy | unknown)


@pytest.mark.parametrize("route", DIALECTS)
@given(names)
def test_the_models_spelling_means_nothing(route: str, spelled: str) -> None:
    body = TALK | PROMPT | INPUT | SAID
    assert key(route, body | {"model": spelled}) == key(route, body)
