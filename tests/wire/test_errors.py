import pytest

from serve.errors import (
    BadRequest,
    DeadlineExceeded,
    EngineRefused,
    NotCapable,
    NotFound,
    Overloaded,
    RayllamaError,
)
from serve.wire.errors import Rendered, native_body, native_error, openai_body, openai_error
from tests.wire.golden import recorded


@pytest.mark.parametrize(
    ("name", "rendered"),
    [
        (
            "chat.bad_json",
            native_error(
                BadRequest("invalid character 'o' in literal null (expecting 'u')"), "form"
            ),
        ),
        (
            "embed.embed_chat_model",
            native_error(
                NotCapable("This server does not support embeddings. Start it with `--embeddings`"),
            ),
        ),
        (
            "openai.chat_empty_messages",
            openai_error(BadRequest("[] is too short - 'messages'"), "form"),
        ),
        ("openai.chat_empty_body", openai_error(BadRequest("EOF"))),
        (
            "openai.chat_unknown_model",
            openai_error(NotFound("model 'nope' not found"), "model"),
        ),
        (
            "embed.v1_embeddings_chat_model",
            openai_error(
                EngineRefused(
                    501, "This server does not support embeddings. Start it with `--embeddings`"
                ),
                "model",
            ),
        ),
    ],
)
def test_the_recorded_errors(name: str, rendered: Rendered) -> None:
    exchange = recorded(name)
    assert rendered.status == exchange["status"]
    assert rendered.content_type == exchange["type"]
    assert rendered.body.decode() == exchange["frames"][0]
    assert rendered.retry_after_s is None


def test_an_engines_own_error_of_a_stream_is_plain_json() -> None:
    rendered = native_error(EngineRefused(400, "no"), "model")
    assert rendered == Rendered(400, "application/json", b'{"error":"no"}')


@pytest.mark.parametrize("error", [Overloaded(), DeadlineExceeded("too late")])
def test_what_may_be_tried_again_says_when(error: RayllamaError) -> None:
    assert native_error(error).retry_after_s == 1
    assert openai_error(error).retry_after_s == 1
    assert b'"type":"api_error"' in openai_error(error).body


def test_texts_are_escaped() -> None:
    assert native_body(BadRequest('"<&')) == rb'{"error":"\"\u003c\u0026"}'
    assert openai_body(BadRequest("<"), newline=False).startswith(rb'{"error":{"message":"\u003c"')
