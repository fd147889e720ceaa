"""What the client libraries raise, over real sockets: the classes that their users expect."""

from hashlib import sha256
from typing import Any

import anthropic
import ollama
import openai
import pytest

from serve.errors import SERVER_BUSY
from serve.ports import Failed, Frame, Head
from serve.settings import AuthSettings, Key
from tests.clients.served import served
from tests.web.scripted_pool import JSON, NDJSON, line

MESSAGES: list[Any] = [{"role": "user", "content": "hi"}]
KEYS = AuthSettings(
    keys=[Key.model_validate({"sha256": sha256(b"alpha").hexdigest(), "tenant": "a"})]
)
STATUSES = (400, 401, 403, 404, 413, 429, 500, 501, 503, 504)
OPENAI: dict[int, type[openai.APIStatusError]] = {
    400: openai.BadRequestError,
    401: openai.AuthenticationError,
    403: openai.PermissionDeniedError,
    404: openai.NotFoundError,
    413: openai.APIStatusError,
    429: openai.RateLimitError,
}
"""All from 500 on are an `InternalServerError`."""

ANTHROPIC: dict[int, type[anthropic.APIStatusError]] = {
    400: anthropic.BadRequestError,
    401: anthropic.AuthenticationError,
    403: anthropic.PermissionDeniedError,
    404: anthropic.NotFoundError,
    413: anthropic.RequestTooLargeError,
    429: anthropic.RateLimitError,
    503: anthropic.OverloadedError,
    504: anthropic.DeadlineExceededError,
}
"""The others from 500 on are an `InternalServerError`."""


def refusing(status: int) -> list[Frame]:
    """An engine that answers with this status, in Ollama's words."""
    return [Head(status, JSON.content_type), b'{"error":"why not"}']


BROKEN: list[Frame] = [NDJSON, line("half"), Failed("the runner went away")]


def openai_client(url: str, key: str = "x") -> openai.OpenAI:
    return openai.OpenAI(base_url=url + "/v1", api_key=key, max_retries=0)


def anthropic_client(url: str, key: str = "x") -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=url, api_key=key, max_retries=0)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("status", STATUSES)
def test_a_refusal(status: int, *, stream: bool) -> None:
    with served(refusing(status)) as url:
        _ollama(url, status, stream=stream)
        with openai_client(url) as client:
            _openai(client, status, stream=stream)
        with anthropic_client(url) as other:
            _anthropic(other, status, stream=stream)


def _ollama(url: str, status: int, *, stream: bool) -> None:
    client = ollama.Client(host=url)
    for ask in (client.chat, client.generate):
        told: Any = {"messages": MESSAGES} if ask == client.chat else {"prompt": "hi"}
        with pytest.raises(ollama.ResponseError, match="why not") as raised:
            list(ask("m", **told, stream=stream))  # type: ignore[call-overload]
        assert raised.value.status_code == status
    client._client.close()


def _openai(client: openai.OpenAI, status: int, *, stream: bool) -> None:
    expected = OPENAI.get(status, openai.InternalServerError)
    asks: list[Any] = [
        lambda: client.chat.completions.create(model="m", messages=MESSAGES, stream=stream),
        lambda: client.completions.create(model="m", prompt="hi", stream=stream),
        lambda: client.responses.create(model="m", input="hi", stream=stream),
        lambda: client.embeddings.create(model="m", input="hi"),
    ]
    for ask in asks:
        with pytest.raises(expected, match="why not") as raised:
            ask()
        assert raised.value.status_code == status
        assert isinstance(raised.value.body, dict)
        assert raised.value.body["message"] == "why not"


def _anthropic(client: anthropic.Anthropic, status: int, *, stream: bool) -> None:
    with pytest.raises(ANTHROPIC.get(status, anthropic.InternalServerError)) as raised:
        client.messages.create(model="m", messages=MESSAGES, max_tokens=9, stream=stream)
    assert raised.value.status_code == (529 if status == 503 else status)
    assert "why not" in str(raised.value)


def test_a_full_queue_says_when_to_try_again() -> None:
    script: list[Frame] = [Head(503, JSON.content_type), b'{"error":"%b"}' % SERVER_BUSY.encode()]
    with served(script) as url, openai_client(url) as client, anthropic_client(url) as other:
        with pytest.raises(openai.InternalServerError, match="server busy") as refused:
            client.responses.create(model="m", input="hi")
        assert refused.value.response.headers["retry-after"] == "1"
        with pytest.raises(anthropic.OverloadedError, match="server busy") as overloaded:
            other.messages.create(model="m", messages=MESSAGES, max_tokens=9)
        assert overloaded.value.response.headers["retry-after"] == "1"


def test_a_stream_that_breaks() -> None:
    with served(BROKEN) as url:
        client = ollama.Client(host=url)
        with pytest.raises(ollama.ResponseError, match="went away"):
            list(client.chat("m", MESSAGES, stream=True))
        client._client.close()
        with openai_client(url) as said, pytest.raises(openai.APIError, match="went away"):
            list(said.chat.completions.create(model="m", messages=MESSAGES, stream=True))
        with (
            anthropic_client(url) as other,
            pytest.raises(anthropic.APIStatusError, match="went away"),
        ):
            list(other.messages.create(model="m", messages=MESSAGES, max_tokens=9, stream=True))


def test_a_completion_that_breaks() -> None:
    half = b'{"model":"m","created_at":"2026-11-23T14:27:06Z","response":"half","done":false}\n'
    script: list[Frame] = [NDJSON, half, Failed("the runner went away")]
    with served(script) as url, openai_client(url) as client:
        with pytest.raises(openai.APIError, match="went away"):
            list(client.completions.create(model="m", prompt="hi", stream=True))
        with pytest.raises(openai.InternalServerError, match="went away"):
            client.completions.create(model="m", prompt="hi")


def test_a_response_that_breaks_ends_with_events_for_it() -> None:
    with served(BROKEN) as url, openai_client(url) as client:
        events: list[Any] = list(client.responses.create(model="m", input="hi", stream=True))
        error, failed = events[-2:]
        assert (error.type, failed.type) == ("error", "response.failed")
        assert error.message == "the runner went away"
        assert failed.response.error is not None
        assert failed.response.error.code == "server_error"
        assert failed.response.status == "failed"
        numbers = [event.sequence_number for event in events]
        assert numbers == list(range(len(events)))


def test_a_wrong_key() -> None:
    with served([], KEYS) as url:
        with openai_client(url, "wrong") as client, pytest.raises(openai.AuthenticationError):
            client.responses.create(model="m", input="hi")
        with anthropic_client(url, "wrong") as other, pytest.raises(anthropic.AuthenticationError):
            other.messages.create(model="m", messages=MESSAGES, max_tokens=9)
        own = ollama.Client(host=url, headers={"Authorization": "Bearer wrong"})
        with pytest.raises(ollama.ResponseError) as refused:
            own.chat("m", MESSAGES)
        assert refused.value.status_code == 401
        own._client.close()


def test_a_body_that_is_too_large() -> None:
    large: list[Any] = [{"role": "user", "content": "x" * 2000}]
    with served([]) as url:
        with openai_client(url) as client, pytest.raises(openai.APIStatusError) as refused:
            client.chat.completions.create(model="m", messages=large)
        assert refused.value.status_code == 413
        with anthropic_client(url) as other, pytest.raises(anthropic.RequestTooLargeError):
            other.messages.create(model="m", messages=large, max_tokens=9)


def test_a_name_that_can_be_none() -> None:
    script: list[Frame] = [Head(400, JSON.content_type), b'{"error":"invalid model name"}']
    with served(script) as url, openai_client(url) as client:
        with pytest.raises(openai.BadRequestError, match="invalid model name"):
            client.chat.completions.create(model="a b", messages=MESSAGES)
        with pytest.raises(openai.BadRequestError, match="file inputs are not"):
            client.responses.create(
                model="m",
                input=[{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}],
            )
