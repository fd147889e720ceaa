"""One generation asked in several dialects is one call of an engine and one entry."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.stack import Stack

pytestmark = pytest.mark.engine

MODEL = "smollm2:135m"
NOTHING: list[dict[str, Any]] = [{"role": "user", "content": []}]


@pytest.fixture
def http(stack: Stack) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=stack.url, timeout=60) as client:
        yield client


def verdict(response: httpx.Response) -> str:
    return response.headers["x-rayllama-cache"]


def test_a_completion_is_a_generation(stack: Stack, http: httpx.Client) -> None:
    prompt = "A completion in two dialects."
    asked = {"model": MODEL, "prompt": prompt, "temperature": 0, "max_tokens": 6}
    options = {"temperature": 0, "top_p": 1.0, "num_predict": 6}
    options |= {"frequency_penalty": 0.0, "presence_penalty": 0.0}
    native = {"model": MODEL, "prompt": prompt, "options": options, "stream": False}
    calls = len(stack.pool.calls)
    first = http.post("/v1/completions", json=asked)
    assert verdict(first).startswith("miss")
    again = http.post("/api/generate", json=native)
    assert verdict(again) == "hit; tier=shared"
    assert again.json()["response"] == first.json()["choices"][0]["text"]
    streamed = http.post("/v1/completions", json=asked | {"stream": True})
    assert verdict(streamed) == "hit; tier=shared"
    assert streamed.text.endswith("data: [DONE]\n\n")
    assert len(stack.pool.calls) == calls + 1


def test_embeddings_share_the_entries_of_their_inputs(stack: Stack, http: httpx.Client) -> None:
    texts = ["one of OpenAI's", "another of OpenAI's"]
    asked: dict[str, Any] = {"model": "all-minilm", "input": texts}
    native = http.post("/api/embed", json=asked)
    calls = len(stack.pool.calls)
    whole = http.post("/v1/embeddings", json=asked)
    assert verdict(whole).startswith("hit")
    vectors = [row["embedding"] for row in whole.json()["data"]]
    assert vectors == native.json()["embeddings"]
    one = http.post("/v1/embeddings", json=asked | {"input": texts[1]})
    assert [row["embedding"] for row in one.json()["data"]] == vectors[1:]
    packed = http.post("/v1/embeddings", json=asked | {"encoding_format": "base64"})
    assert verdict(packed).startswith("hit")
    assert len(stack.pool.calls) == calls
    partial = http.post("/v1/embeddings", json=asked | {"input": [*texts, "a third of OpenAI's"]})
    assert [row["embedding"] for row in partial.json()["data"]][:2] == vectors
    assert len(stack.pool.calls) == calls + 1


def test_a_load_is_said_in_the_dialect(http: httpx.Client) -> None:
    loaded = http.post("/v1/completions", json={"model": MODEL})
    assert loaded.json()["choices"] == [{"text": "", "index": 0, "finish_reason": "load"}]
    streamed = http.post("/v1/completions", json={"model": MODEL, "stream": True})
    assert streamed.headers["content-type"] == "text/event-stream"
    assert streamed.text.endswith("data: [DONE]\n\n")
    assert "cache-control" not in streamed.headers


def test_a_load_is_as_little_for_caches_between_as_a_stream(http: httpx.Client) -> None:
    empty = {"/v1/responses": {}, "/v1/messages": {"messages": NOTHING, "max_tokens": 3}}
    for path, asked in empty.items():
        loaded = http.post(path, json={"model": MODEL, "stream": True, **asked})
        assert verdict(loaded) == "bypass; reason=load"
        assert loaded.headers["content-type"] == "text/event-stream"
        assert loaded.headers["cache-control"] == "no-cache"
        whole = http.post(path, json={"model": MODEL, **asked})
        assert verdict(whole) == "bypass; reason=load"
        assert "cache-control" not in whole.headers


def test_a_message_is_a_chat(stack: Stack, http: httpx.Client) -> None:
    messages = [{"role": "user", "content": "A message in two dialects."}]
    asked = {"model": MODEL, "messages": messages, "max_tokens": 6, "temperature": 0}
    options = {"num_predict": 6, "temperature": 0}
    calls = len(stack.pool.calls)
    native = http.post("/api/chat", json={"model": MODEL, "messages": messages, "options": options})
    first = http.post("/v1/messages", json=asked)
    assert verdict(first) == "hit; tier=shared"
    text = "".join(json.loads(line)["message"]["content"] for line in native.text.splitlines())
    assert first.json()["content"] == [{"type": "text", "text": text}]
    streamed = http.post("/v1/messages", json=asked | {"stream": True})
    assert verdict(streamed) == "hit; tier=shared"
    assert streamed.text.endswith('data: {"type":"message_stop"}\n\n')
    again = http.post("/v1/messages", json=asked | {"stream": True})
    assert (verdict(again), again.content) == ("hit; tier=near", streamed.content)
    assert again.headers["cache-control"] == "no-cache"
    assert len(stack.pool.calls) == calls + 1


def test_a_response_is_a_chat(stack: Stack, http: httpx.Client) -> None:
    asked: dict[str, Any] = {
        "model": MODEL,
        "input": "A response in two dialects.",
        "instructions": "Be short.",
    }
    asked |= {"max_output_tokens": 6, "temperature": 0}
    messages = [{"role": "system", "content": "Be short."}]
    messages += [{"role": "user", "content": "A response in two dialects."}]
    options = {"num_predict": 6, "temperature": 0}
    calls = len(stack.pool.calls)
    native = http.post("/api/chat", json={"model": MODEL, "messages": messages, "options": options})
    first = http.post("/v1/responses", json=asked)
    assert verdict(first) == "hit; tier=shared"
    text = "".join(json.loads(line)["message"]["content"] for line in native.text.splitlines())
    assert first.json()["output"][0]["content"][0]["text"] == text
    assert "cache-control" not in first.headers
    streamed = http.post("/v1/responses", json=asked | {"stream": True})
    assert verdict(streamed) == "hit; tier=shared"
    events = [json.loads(line[6:]) for line in streamed.text.splitlines() if line[:6] == "data: "]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert events[-1]["type"] == "response.completed"
    assert events[-1]["response"]["output"][0]["content"][0]["text"] == text
    again = http.post("/v1/responses", json=asked | {"stream": True})
    assert (verdict(again), again.content) == ("hit; tier=near", streamed.content)
    assert again.headers["cache-control"] == "no-cache"
    other = http.post("/v1/responses", json=asked | {"stream": True, "background": True})
    assert '"background":true' in other.text
    assert len(stack.pool.calls) == calls + 1


def test_a_model_that_cannot_think_answers_without(http: httpx.Client) -> None:
    messages = [{"role": "user", "content": "Think about it."}]
    asked = {"model": MODEL, "messages": messages, "max_tokens": 6, "temperature": 0}
    thought = http.post("/v1/messages", json=asked | {"thinking": {"type": "enabled"}})
    assert thought.status_code == 200
    plain = http.post("/v1/messages", json=asked)
    assert verdict(plain) == "hit; tier=shared"
    assert plain.json() == thought.json()


ASKS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "hi"}]},
    "/v1/completions": {"prompt": "hi"},
    "/v1/embeddings": {"input": "hi"},
    "/v1/responses": {"input": "hi"},
    "/v1/messages": {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 3},
}


@pytest.mark.parametrize("path", ASKS)
def test_a_model_of_the_cloud_is_refused_in_ollamas_own_dialect(
    http: httpx.Client, path: str
) -> None:
    refused = http.post(path, json=ASKS[path] | {"model": "m:cloud"})
    said = {"error": "ollama cloud is disabled: remote model is unavailable"}
    assert (refused.status_code, refused.json()) == (403, said)
    assert refused.headers["content-type"] == "application/json; charset=utf-8"


@pytest.mark.parametrize(
    ("name", "status", "said"),
    [
        ("m:7b-cloud", 403, "ollama cloud is disabled: remote model details are unavailable"),
        ("a%5Cb", 400, "invalid model name"),
        ("m:cloud:local", 400, 'use either :local or :cloud, not both: "m:cloud:local"'),
        ("nope", 404, "model 'nope:latest' not found"),
    ],
)
def test_what_is_said_of_a_model_that_is_none(
    http: httpx.Client, name: str, status: int, said: str
) -> None:
    refused = http.get(f"/v1/models/{name}")
    error = refused.json()["error"]
    assert refused.status_code == status
    if status == 403:
        assert error == said
    else:
        assert error["message"] == said
        assert refused.headers["content-type"] == "application/json"


def test_names_with_slashes_are_looked_up(http: httpx.Client) -> None:
    found = http.get("/v1/models/library/" + MODEL)
    assert found.json()["id"] == "library/" + MODEL
    missing = http.get("/v1/models/hf.co/nobody/nothing:q4")
    assert missing.status_code == 404
    assert missing.json()["error"]["message"] == "model 'hf.co/nobody/nothing:q4' not found"
    assert http.get("/v1/models/").headers["location"] == "/v1/models"


def test_what_no_table_has_is_kept_from_the_engine_and_in_the_key(
    stack: Stack, http: httpx.Client
) -> None:
    said = {"role": "user", "content": "Of a field that nobody knows."}
    asked: dict[str, Any] = {"model": MODEL, "messages": [said], "temperature": 0, "max_tokens": 4}
    first = http.post("/v1/chat/completions", json=asked)
    other = http.post("/v1/chat/completions", json=asked | {"made_up": {"a": 1, "b": 2}})
    assert verdict(first) == verdict(other) == "miss; reason=cold"
    assert json.loads(stack.pool.calls[-1].body) == json.loads(stack.pool.calls[-2].body)
    assert other.json()["choices"] == first.json()["choices"]
    again = http.post("/v1/chat/completions", json={"made_up": {"b": 2, "a": 1}} | asked)
    labelled = http.post("/v1/chat/completions", json=asked | {"user": "x", "store": True})
    assert verdict(again) == verdict(labelled) == "hit; tier=shared"


def test_a_batch_with_an_unknown_field_has_entries_of_its_own(
    stack: Stack, http: httpx.Client
) -> None:
    texts = ["one with a made-up field", "another with a made-up field"]
    asked: dict[str, Any] = {"model": "all-minilm", "input": texts}
    http.post("/v1/embeddings", json=asked)
    unknown = asked | {"made_up": 1}
    assert verdict(http.post("/v1/embeddings", json=unknown)).startswith("miss")
    assert verdict(http.post("/v1/embeddings", json=unknown | {"input": texts[:1]})) == (
        "hit; tier=shared"
    )
    partial = http.post("/v1/embeddings", json=unknown | {"input": [*texts, "a third, made up"]})
    assert verdict(partial) == "miss; reason=partial"
    assert json.loads(stack.pool.calls[-1].body) == {
        "model": "all-minilm",
        "input": ["a third, made up"],
    }
