from typing import Annotated, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from serve.errors import BadRequest
from serve.wire import native
from serve.wire.gojson import dumps
from serve.wire.gostruct import GoRequest, decode
from serve.wire.openai import ChatCompletionRequest
from tests.wire.golden import recorded, rows

KINDS: dict[str, type[GoRequest]] = {
    "GenerateRequest": native.GenerateRequest,
    "ChatRequest": native.ChatRequest,
    "EmbedRequest": native.EmbedRequest,
    "EmbeddingsRequest": native.EmbeddingsRequest,
    "ShowRequest": native.ShowRequest,
    "ChatCompletionRequest": ChatCompletionRequest,
}


@pytest.mark.parametrize("row", rows("types"), ids=lambda row: f"{row['kind']}{row['body'][:60]}")
def test_bodies_are_taken_or_refused_as_in_go(row: dict[str, Any]) -> None:
    error = None
    try:
        decode(row["body"].encode(), KINDS[row["kind"]], empty="EOF")
    except BadRequest as exc:
        error = str(exc)
    assert error == row["error"]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("generate.think_bad", native.GenerateRequest),
        ("generate.empty_body", native.GenerateRequest),
        ("generate.bad_json", native.GenerateRequest),
        ("generate.json_array", native.GenerateRequest),
        ("generate.options_not_object", native.GenerateRequest),
        ("generate.keep_alive_no_unit", native.GenerateRequest),
        ("chat.empty_body", native.ChatRequest),
        ("chat.bad_json", native.ChatRequest),
        ("chat.messages_not_list", native.ChatRequest),
        ("chat.content_parts", native.ChatRequest),
        ("embed.embed_bad_json", native.EmbedRequest),
        ("models.show_empty_body", native.ShowRequest),
    ],
)
def test_the_recorded_refusals(name: str, kind: type[GoRequest]) -> None:
    exchange = recorded(name)
    with pytest.raises(BadRequest) as refused:
        decode(exchange["body"].encode(), kind)
    assert dumps({"error": str(refused.value)}).decode() == exchange["frames"][0]
    assert refused.value.status == exchange["status"]


def test_unknown_fields_survive() -> None:
    request = decode(b'{"x":{"y":[1]},"model":"m","messages":[{"z":1}]}', native.ChatRequest)
    assert request.model_extra == {"x": {"y": [1]}}
    assert request.messages[0].model_extra == {"z": 1}
    assert request.raw == {"x": {"y": [1]}, "model": "m", "messages": [{"z": 1}]}
    assert list(request.raw) == ["x", "model", "messages"]


def test_keys_match_without_regard_to_case_and_the_last_wins() -> None:
    request = decode(
        b'{"MODEL":"a","\xc5\xbfTREAM":false,"model":"b","Messages":[{"Role":"USER"}]}',
        native.ChatRequest,
    )
    assert (request.model, request.stream) == ("b", False)
    assert request.messages[0].role == "user"
    assert "MODEL" in request.raw


def test_a_null_clears_only_what_can_be_nil() -> None:
    request = decode(
        b'{"model":"a","model":null,"stream":false,"STREAM":null,"keep_alive":5,"keep_alive":null,'
        b'"logprobs":null,"logprobs":true,"LOGPROBS":null,"top_logprobs":3,"top_logprobs":null}',
        native.ChatRequest,
    )
    assert (request.model, request.logprobs, request.top_logprobs) == ("a", True, 3)
    assert (request.stream, request.keep_alive) == (None, None)


def test_a_key_in_two_cases_has_both_its_values_looked_at() -> None:
    with pytest.raises(BadRequest, match=r"array into Go struct field ChatRequest.model of type"):
        decode(b'{"MODEL":[],"model":"b"}', native.ChatRequest)


def test_repeated_keys_are_looked_at_too() -> None:
    with pytest.raises(BadRequest, match=r"number into Go struct field GenerateRequest.model"):
        decode(b'{"model":1,"model":"b"}', native.GenerateRequest)


def test_null_is_the_zero_value_everywhere() -> None:
    body = (
        b'{"model":null,"messages":[null,{"tool_calls":[null],"images":[null],"content":null}],'
        b'"tools":[{"function":{"parameters":{"properties":{"p":null},"required":[null]}}}],'
        b'"keep_alive":null,"think":null,"options":null,"stream":null}'
    )
    request = decode(body, native.ChatRequest)
    assert request.model == ""
    assert request.messages[0].content == ""
    assert request.messages[1].tool_calls[0].function.arguments == {}
    assert request.messages[1].images == [""]
    parameters = request.tools[0].function.parameters
    assert (parameters.properties["p"].type, parameters.required) == ([], [""])
    assert (request.keep_alive, request.think, request.stream) == (None, None, None)
    assert decode(b"null", native.ChatRequest).raw == {}
    assert decode(b'{"context":[null,7]}', native.GenerateRequest).context == [0, 7]
    assert decode(b'{"options":{"a":null}}', native.GenerateRequest).options == {"a": None}


def test_nulls_are_no_fault_where_there_is_another() -> None:
    body = (
        b'{"model":null,"context":[null,1],"images":[null,"aGk="],"options":null,"stream":null,'
        b'"keep_alive":null,"format":null,"top_logprobs":null,"raw":3}'
    )
    with pytest.raises(BadRequest, match=r"number into Go struct field GenerateRequest.raw of"):
        decode(body, native.GenerateRequest)
    body = (
        b'{"messages":[null,{"tool_calls":[{"function":{"arguments":null}}]}],"logprobs":3,'
        b'"tools":[{"function":{"parameters":{"properties":{"p":{"type":null},"q":{"type":"x"}}}}}]}'
    )
    with pytest.raises(BadRequest, match=r"number into Go struct field ChatRequest.logprobs of"):
        decode(body, native.ChatRequest)
    with pytest.raises(BadRequest, match=r"number into Go struct field ChatCompletionRequest.str"):
        decode(b'{"temperature":null,"top_p":0.5,"stop":null,"stream":3}', ChatCompletionRequest)


class Picky(GoRequest):
    """Asks for more than Go's types do."""

    go_name = "api.Picky"

    size: Annotated[int, Field(lt=10)] = 0


def test_pydantic_has_the_last_word_where_go_has_none() -> None:
    assert decode(b'{"size":9}', Picky).size == 9
    with pytest.raises(BadRequest, match=r"^size: Input should be less than 10$"):
        decode(b'{"size":10}', Picky)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)  # JSON has neither
    | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["model", "messages", "role", "content", "tools", "function", "options"]
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=12,
)


@given(JSON, st.sampled_from(sorted(KINDS)))
def test_any_json_is_a_request_or_a_bad_request(value: object, kind: str) -> None:
    said = "json: cannot unmarshal "
    try:
        decode(dumps(value), KINDS[kind])
    except BadRequest as exc:
        said = str(exc)
    assert said.startswith(("json: cannot unmarshal ", "Value looks like object"))
