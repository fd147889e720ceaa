"""One generation asked in several dialects is one call of an engine and one entry."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.stack import Stack

pytestmark = pytest.mark.engine

MODEL = "smollm2:135m"


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
