"""Clients as people use them: nothing but the URL is changed."""

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx
import ollama
import openai
import pytest

from tests.stack import Stack, until

pytestmark = pytest.mark.engine

MODEL = "smollm2:135m"
OPTIONS = {"temperature": 0, "num_predict": 5}
OPTIONS_WITHOUT_END = {"temperature": 3, "seed": 7, "num_predict": 4000}
MESSAGES: list[Any] = [{"role": "user", "content": "Say hello to a client."}]


@pytest.fixture
def client(stack: Stack) -> Iterator[ollama.Client]:
    client = ollama.Client(host=stack.url)
    yield client
    client._client.close()


def test_ollama_sync(client: ollama.Client) -> None:
    whole = client.chat(MODEL, MESSAGES, options=OPTIONS)
    parts = list(client.chat(MODEL, MESSAGES, options=OPTIONS, stream=True))
    assert parts[-1].done
    assert parts[-1].eval_count == whole.eval_count == 5
    assert "".join(part.message.content or "" for part in parts) == whole.message.content
    generated = client.generate(MODEL, "Say hello.", options=OPTIONS)
    assert generated.done_reason == "length"
    vectors = client.embed("all-minilm", ["one", "two"]).embeddings
    assert [len(vector) for vector in vectors] == [384, 384]
    assert MODEL in [model.model for model in client.list().models]
    assert MODEL in [model.model for model in client.ps().models]
    details = client.show(MODEL).details
    assert details is not None
    assert details.family == "llama"


def test_ollama_raises_what_its_users_expect(client: ollama.Client) -> None:
    with pytest.raises(ollama.ResponseError, match="model 'nope' not found") as missing:
        client.chat("nope", MESSAGES)
    assert missing.value.status_code == 404
    with pytest.raises(ollama.ResponseError, match="not found"):
        list(client.generate("nope", "x", stream=True))
    with pytest.raises(ollama.ResponseError, match="does not support embeddings") as unable:
        client.embed(MODEL, "x")
    assert unable.value.status_code == 501


async def test_ollama_async(stack: Stack) -> None:
    client = ollama.AsyncClient(host=stack.url)
    whole = await client.chat(MODEL, MESSAGES, options=OPTIONS)
    parts = [
        part async for part in await client.chat(MODEL, MESSAGES, options=OPTIONS, stream=True)
    ]
    assert "".join(part.message.content or "" for part in parts) == whole.message.content
    await client._client.aclose()


def test_openai_chat_completions(stack: Stack) -> None:
    with openai.OpenAI(base_url=stack.url + "/v1", api_key="unused") as client:
        asked: dict[str, Any] = {
            "model": MODEL,
            "messages": MESSAGES,
            "temperature": 0,
            "max_tokens": 5,
        }
        whole = client.chat.completions.create(**asked)
        assert whole.usage is not None
        assert whole.usage.completion_tokens == 5
        text = ""
        usage = None
        for chunk in client.chat.completions.create(
            **asked, stream=True, stream_options={"include_usage": True}
        ):
            text += "".join(choice.delta.content or "" for choice in chunk.choices)
            usage = chunk.usage or usage
        assert text == whole.choices[0].message.content
        assert usage == whole.usage
        assert MODEL in [model.id for model in client.models.list()]
        assert client.models.retrieve(MODEL).id == MODEL


def test_openai_raises_what_its_users_expect(stack: Stack) -> None:
    with openai.OpenAI(base_url=stack.url + "/v1", api_key="unused", max_retries=0) as client:
        with pytest.raises(openai.NotFoundError, match="model 'nope' not found"):
            client.chat.completions.create(model="nope", messages=MESSAGES)
        with pytest.raises(openai.BadRequestError, match="too short"):
            client.chat.completions.create(model=MODEL, messages=[])
    with (
        openai.OpenAI(base_url=stack.doors[2].url + "/v1", api_key="wrong") as stranger,
        pytest.raises(openai.AuthenticationError),
    ):
        stranger.models.list()


def test_openai_completions_and_embeddings(stack: Stack) -> None:
    with openai.OpenAI(base_url=stack.url + "/v1", api_key="unused", max_retries=0) as client:
        asked: dict[str, Any] = {"model": MODEL, "prompt": "Say", "temperature": 0, "max_tokens": 5}
        whole = client.completions.create(**asked)
        parts = list(client.completions.create(**asked, stream=True))
        assert "".join(part.choices[0].text for part in parts) == whole.choices[0].text
        found = client.embeddings.create(model="all-minilm", input=["one", "two"])
        plain = client.embeddings.create(
            model="all-minilm", input=["one", "two"], encoding_format="float"
        )
        assert [len(row.embedding) for row in found.data] == [384, 384]
        assert found.data[1].embedding == pytest.approx(plain.data[1].embedding)
        with pytest.raises(openai.BadRequestError, match="invalid input"):
            client.embeddings.create(model="all-minilm", input=[])
        with pytest.raises(openai.NotFoundError):
            client.completions.create(model="nope", prompt="x")


def test_openai_responses(stack: Stack) -> None:
    with openai.OpenAI(base_url=stack.url + "/v1", api_key="unused", max_retries=0) as client:
        asked: dict[str, Any] = {
            "model": MODEL,
            "instructions": "Be short.",
            "input": MESSAGES,
            "temperature": 0,
            "max_output_tokens": 5,
        }
        whole = client.responses.create(**asked)
        assert whole.status == "completed"
        assert whole.usage is not None
        assert whole.usage.output_tokens == 5
        with client.responses.stream(**asked) as stream:
            text = "".join(e.delta for e in stream if e.type == "response.output_text.delta")
            final = stream.get_final_response()
        assert text == final.output_text == whole.output_text
        assert final.usage == whole.usage
        turn = [*MESSAGES, *final.output, {"role": "user", "content": "And again?"}]
        assert client.responses.create(**asked | {"input": turn}).output_text
        chat = client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "system", "content": "Be short."}, *MESSAGES],
            temperature=0,
            max_tokens=5,
        )
        assert chat.choices[0].message.content == whole.output_text
        with pytest.raises(openai.NotFoundError, match="model 'nope' not found"):
            client.responses.create(model="nope", input="x")
        tool: Any = {"type": "function", "name": "f", "parameters": {"type": "object"}}
        with pytest.raises(openai.BadRequestError, match="does not support tools"):
            client.responses.create(model=MODEL, input="x", tools=[tool])


def test_anthropic_messages(stack: Stack) -> None:
    with anthropic.Anthropic(base_url=stack.url, api_key="unused", max_retries=0) as client:
        asked: dict[str, Any] = {
            "model": MODEL,
            "messages": MESSAGES,
            "max_tokens": 5,
            "extra_body": {"temperature": 0},
        }
        whole = client.messages.create(**asked)
        assert whole.usage.output_tokens == 5
        assert whole.stop_reason == "max_tokens"
        with client.messages.stream(**asked) as stream:
            final = stream.get_final_message()
        assert final.content[0].type == whole.content[0].type == "text"
        assert final.content[0].text == whole.content[0].text
        assert final.usage.input_tokens == whole.usage.input_tokens


def test_anthropic_raises_what_its_users_expect(stack: Stack) -> None:
    with anthropic.Anthropic(base_url=stack.url, api_key="unused", max_retries=0) as client:
        with pytest.raises(anthropic.NotFoundError, match="model 'nope' not found"):
            client.messages.create(model="nope", messages=MESSAGES, max_tokens=5)
        with pytest.raises(anthropic.BadRequestError, match="must be positive"):
            client.messages.create(model=MODEL, messages=MESSAGES, max_tokens=0)
    with (
        anthropic.Anthropic(base_url=stack.doors[2].url, api_key="wrong") as stranger,
        pytest.raises(anthropic.AuthenticationError),
    ):
        stranger.messages.create(model=MODEL, messages=MESSAGES, max_tokens=5)


def test_curl_as_ollama_documents_it(stack: Stack) -> None:
    body = json.dumps({"model": MODEL, "prompt": "Why?", "stream": False, "options": OPTIONS})
    run = subprocess.run(
        ["curl", "-sS", stack.url + "/api/generate", "-d", body],
        capture_output=True,
        check=True,
        timeout=60,
    )
    assert json.loads(run.stdout)["done"] is True


def test_each_line_arrives_when_it_is_made(stack: Stack) -> None:
    """The second line is not yet made when the first is read: the engine still has the call."""
    body = {"model": MODEL, "prompt": "Count to one hundred.", "options": {"num_predict": 200}}
    with (
        httpx.Client(timeout=60) as client,
        client.stream("POST", stack.url + "/api/generate", json=body) as response,
    ):
        lines = response.iter_lines()
        assert json.loads(next(lines))["done"] is False
        assert stack.pool.open == 1
        assert json.loads(list(lines)[-1])["done"] is True


def test_a_client_that_leaves_frees_its_slot(stack: Stack) -> None:
    integers = {"type": "array", "items": {"type": "integer"}, "minItems": 2000}
    body = {"model": MODEL, "prompt": "Count.", "format": integers, "options": OPTIONS_WITHOUT_END}
    for streamed in (True, False):
        with httpx.Client(timeout=60) as client:
            if streamed:
                with client.stream("POST", stack.url + "/api/generate", json=body) as response:
                    next(response.iter_lines())
            else:
                with pytest.raises(httpx.ReadTimeout):
                    client.post(
                        stack.url + "/api/generate", json={**body, "stream": False}, timeout=0.5
                    )
        stack.run(until(lambda: stack.pool.open == 0))
