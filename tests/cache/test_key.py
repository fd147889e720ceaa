import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ollama import _types as ollama_types
from pydantic import BaseModel

from serve.cache.key import KEY_BYTES, request_key
from serve.cache.reviewed import IGNORED, IGNORED_WHEN_GREEDY
from serve.wire import gojson, openai
from serve.wire.native import ChatRequest, decode

FACTS = {"digest": "d", "fingerprint": "f", "tenant": "default"}
CHAT: dict[str, Any] = {
    "model": "smollm2:135m",
    "messages": [{"role": "user", "content": "hi"}],
    "options": {"temperature": 0, "seed": 1},
}


def key(native: dict[str, Any], route: str = "/api/chat", **facts: str) -> bytes:
    return request_key(route, native, **(FACTS | facts))


def with_option(name: str, value: object) -> dict[str, Any]:
    return CHAT | {"options": CHAT["options"] | {name: value}}


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
json_values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
bodies = st.dictionaries(
    st.sampled_from(["prompt", "messages", "tools", "format", "system", "think", "made_up"]),
    json_values,
)
option_maps = st.dictionaries(st.text(max_size=8), json_values, max_size=5)


def test_is_stable_across_versions() -> None:
    """A key is an address in shards that outlive an ingress: another formula loses all."""
    assert key(CHAT).hex() == "d841648063bdd7a87f1e1b7990edd6f0"
    assert len(key(CHAT)) == KEY_BYTES


@given(bodies, option_maps, st.randoms())
def test_the_order_of_fields_and_options_means_nothing(
    body: dict[str, Any], options: dict[str, Any], random: Any
) -> None:
    def shuffled(mapping: dict[str, Any]) -> dict[str, Any]:
        items = list(mapping.items())
        random.shuffle(items)
        return dict(items)

    whole = body | {"options": options}
    assert key(shuffled(body | {"options": shuffled(options)})) == key(whole)


@given(bodies, bodies)
def test_different_requests_have_different_keys(one: dict[str, Any], other: dict[str, Any]) -> None:
    same = canonical(one) == canonical(other)
    assert (key(one) == key(other)) is same


def canonical(body: dict[str, Any]) -> str:
    """Python's own idea of what is the same: order kept below the top, types kept."""
    return json.dumps(dict(sorted(body.items())))


REQUESTS: list[type[BaseModel]] = [
    ollama_types.GenerateRequest,
    ollama_types.ChatRequest,
    ollama_types.EmbedRequest,
    ollama_types.EmbeddingsRequest,
]
FIELDS = sorted({name for request in REQUESTS for name in request.model_fields} - {"options"})
OPTIONS = sorted({*ollama_types.Options.model_fields, "min_p", "draft_num_predict", "made_up"})
MESSAGE = [*sorted(ollama_types.Message.model_fields), "tool_call_id", "made_up"]


@pytest.mark.parametrize("field", [*FIELDS, "shift", "_debug_render_only", "made_up"])
def test_every_field_changes_the_key_or_is_reviewed(field: str) -> None:
    assert (key(CHAT | {field: "some other value"}) == key(CHAT)) is (field in IGNORED)


def test_what_is_ignored_is_what_was_reviewed() -> None:
    assert sorted(IGNORED) == ["keep_alive", "metadata", "model", "store", "stream", "user"]


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_changes_the_key_or_is_reviewed(option: str) -> None:
    is_same = key(with_option(option, 0.123)) == key(CHAT)
    assert is_same is (option in IGNORED_WHEN_GREEDY)
    warm = CHAT | {"options": {"temperature": 0.5, "seed": 1}}
    warmer = CHAT | {"options": {"temperature": 0.5, "seed": 1, option: 0.123}}
    assert key(warmer) != key(warm)


@pytest.mark.parametrize("temperature", [0, 0.0, -0.0])
def test_top_p_says_nothing_where_the_likeliest_token_is_taken(temperature: float) -> None:
    greedy = {"options": {"temperature": temperature}}
    for top_p in (1, 1.0, 0.9, 0.001):
        assert key({"options": {**greedy["options"], "top_p": top_p}}) == key(greedy)


@pytest.mark.parametrize("top_p", [0, -1, 1.1, True, None, "1", [1], float("nan")])
def test_a_top_p_that_is_no_share_is_left_in(top_p: object) -> None:
    assert key({"options": {"temperature": 0, "top_p": top_p}}) != key(
        {"options": {"temperature": 0}}
    )


@pytest.mark.parametrize("temperature", [0.1, 1, None, False, "0", [0]])
def test_top_p_counts_at_any_other_temperature(temperature: object) -> None:
    options = {"temperature": temperature, "seed": 1}
    assert key({"options": {**options, "top_p": 0.5}}) != key({"options": options})
    assert key({"options": {"seed": 1, "top_p": 0.5}}) != key({"options": {"seed": 1}})


def test_top_p_counts_where_probabilities_are_told() -> None:
    told = {"logprobs": True, "options": {"temperature": 0}}
    assert key({**told, "options": {"temperature": 0, "top_p": 0.5}}) != key(told)


texts = st.text(min_size=1, max_size=10)
talks = st.lists(
    st.builds(
        lambda role, content: {"role": role, "content": content},
        st.sampled_from(["user", "assistant", "system"]),
        texts,
    ),
    min_size=1,
    max_size=4,
)
sampling = st.one_of(
    st.fixed_dictionaries({"temperature": st.just(0)}, optional={"top_p": st.floats(0.01, 1)}),
    st.fixed_dictionaries(
        {"temperature": st.floats(0.1, 2), "top_p": st.floats(0.01, 1), "seed": st.integers(0, 99)}
    ),
)
limits = st.fixed_dictionaries(
    {}, optional={"max_tokens": st.integers(1, 99), "stop": st.lists(texts, min_size=1)}
)
penalties = st.dictionaries(
    st.sampled_from(["frequency_penalty", "presence_penalty"]), st.floats(-2, 2)
)
formats: st.SearchStrategy[Any] = st.none() | st.just("json") | st.just({"type": "object"})


@given(talks, sampling, limits, penalties, formats)
def test_one_generation_has_one_key_in_both_dialects(
    messages: list[Any],
    sampling: dict[str, Any],
    limits: dict[str, Any],
    penalties: dict[str, Any],
    wanted: Any,
) -> None:
    asked = {"model": "m", "messages": messages, "stream": True, **sampling, **limits, **penalties}
    if wanted is not None:
        asked["response_format"] = (
            {"type": "json_object"}
            if wanted == "json"
            else {"type": "json_schema", "json_schema": {"name": "x", "schema": wanted}}
        )
    spoken = {"num_predict" if name == "max_tokens" else name: v for name, v in limits.items()}
    native = {"model": "m", "messages": messages, "options": {**sampling, **spoken, **penalties}}
    if wanted is not None:
        native["format"] = wanted
    translated = openai.to_native(openai.decode_chat(gojson.dumps(asked)))
    sent = native_body(gojson.dumps(native))
    assert key(translated) == key(sent)
    assert key(translated, digest="other") != key(sent)


def native_body(body: bytes) -> dict[str, Any]:
    return decode(body, ChatRequest).raw


@pytest.mark.parametrize("field", MESSAGE)
def test_every_field_of_every_message_changes_the_key(field: str) -> None:
    first, last = {"role": "user", "content": "a"}, {"role": "user", "content": "yes"}
    talk = {"messages": [first, last]}
    assert key({"messages": [first | {field: "other"}, last]}) != key(talk)
    assert key({"messages": [first, last | {field: "other"}]}) != key(talk)


@pytest.mark.parametrize("fact", ["digest", "fingerprint", "tenant"])
def test_what_is_not_in_the_body_changes_the_key(fact: str) -> None:
    assert key(CHAT, **{fact: "other"}) != key(CHAT)


def test_the_route_changes_the_key() -> None:
    """/api/embed normalises its vectors, /api/embeddings does not."""
    assert key(CHAT, "/api/embed") != key(CHAT, "/api/embeddings")


def test_facts_do_not_run_together() -> None:
    assert key(CHAT, digest="ab", fingerprint="c") != key(CHAT, digest="a", fingerprint="bc")
    assert key({"prompt": "ab", "system": "c"}) != key({"prompt": "a", "system": "bc"})


@pytest.mark.parametrize("other", ["Hi", "hi ", " hi", "hi\n", "h\u0131", "\uff48i"])
def test_text_is_never_altered(other: str) -> None:
    assert key({"prompt": other}) != key({"prompt": "hi"})


def test_the_order_inside_tools_and_formats_counts() -> None:
    one = {"properties": {"city": {"type": "string"}, "unit": {"type": "string"}}}
    other = {"properties": {"unit": {"type": "string"}, "city": {"type": "string"}}}
    assert key({"format": one}) != key({"format": other})
    assert key({"tools": [one]}) != key({"tools": [other]})


@pytest.mark.parametrize("value", [1.0, True, "1", [1], None])
def test_types_count_outside_of_options(value: object) -> None:
    assert key({"top_logprobs": value}) != key({"top_logprobs": 1})


@pytest.mark.parametrize("value", [True, "1", [1], 2])
def test_types_count_inside_of_options(value: object) -> None:
    assert key(with_option("seed", value)) != key(CHAT)


def test_an_option_is_a_float64_as_ollama_reads_it() -> None:
    assert key(with_option("seed", 1.0)) == key(CHAT)
    assert key(with_option("seed", (1 << 53) + 1)) != key(with_option("seed", 1 << 53))


def test_lists_inside_of_options_keep_their_types() -> None:
    assert key(with_option("stop", [1])) != key(with_option("stop", [1.0]))


@pytest.mark.parametrize("none", [None, {}])
def test_no_options_are_no_options(none: object) -> None:
    assert key({"prompt": "x", "options": none}) == key({"prompt": "x"})


def test_options_of_another_shape_are_another_request() -> None:
    assert key({"options": [["seed", 1]]}) != key({"options": {"seed": 1}})
    assert key({"options": {"options": 1}}) != key({"options": 1})


def test_names_that_differ_only_in_case_keep_their_order() -> None:
    """Go takes the last of them, whatever its case."""
    assert key({"prompt": "a", "Prompt": "b"}) != key({"Prompt": "b", "prompt": "a"})


def test_what_msgpack_cannot_say_has_a_key_all_the_same() -> None:
    odd: list[dict[str, Any]] = [
        {"x": 1 << 70},
        {"x": -(1 << 70)},
        {"x": "\ud800"},
        {"x": "\udfff"},
        {"x": 1},
    ]
    assert len({key(body) for body in odd}) == len(odd)


def test_a_body_without_end_is_refused() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(RecursionError):
        key({"messages": deep})
