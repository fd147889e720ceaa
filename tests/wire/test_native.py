import pytest
from pydantic import ValidationError

from serve.errors import BadRequest
from serve.wire.native import (
    FOR_EVER,
    ChatRequest,
    EmbeddingsRequest,
    EmbedRequest,
    GenerateRequest,
    ShowRequest,
    decode,
    quoted,
)


@pytest.mark.parametrize(
    ("sent", "seconds"),
    [
        ("300", 300.0),
        ("0", 0.0),
        ("1.5", 1.5),
        ('"5m"', 300.0),
        ('"1h30m"', 5400.0),
        ('"300ms"', 0.3),
        ('"0"', 0.0),
        ("-1", FOR_EVER),
        ("-0.5", FOR_EVER),
        ('"-1s"', FOR_EVER),
        ("1e300", FOR_EVER),
        ("null", None),
    ],
)
def test_keep_alive_is_seconds(sent: str, seconds: float | None) -> None:
    body = f'{{"keep_alive":{sent}}}'.encode()
    assert decode(body, GenerateRequest).keep_alive == seconds
    assert decode(body, ChatRequest).keep_alive == seconds
    assert decode(body, EmbedRequest).keep_alive == seconds
    assert decode(body, EmbeddingsRequest).keep_alive == seconds


@pytest.mark.parametrize("think", [True, False, "high", "medium", "low", "max"])
def test_think_is_a_claim_or_a_level(think: bool | str) -> None:  # noqa: FBT001
    sent = f'"{think}"' if isinstance(think, str) else str(think).lower()
    assert decode(f'{{"think":{sent}}}'.encode(), ChatRequest).think == think


def test_think_of_another_level_is_refused() -> None:
    with pytest.raises(BadRequest) as refused:
        decode(b'{"think":"l\\"ots"}', GenerateRequest)
    assert str(refused.value) == (
        r'invalid think value: "l\"ots" (must be "high", "medium", "low", "max", true, or false)'
    )


def test_the_bodys_own_raw_is_raw_mode() -> None:
    request = decode(b'{"raw":true,"_debug_render_only":true}', GenerateRequest)
    assert request.raw_mode
    assert request.debug_render_only
    assert request.raw == {"raw": True, "_debug_render_only": True}


def test_images_are_base64_or_bytes() -> None:
    request = decode(b'{"images":["aGk=",[104,105]]}', GenerateRequest)
    assert request.images == ["aGk=", [104, 105]]


def test_format_is_taken_as_it_is() -> None:
    assert decode(b'{"format":{"b":1,"a":[2.50]}}', ChatRequest).format == {"b": 1, "a": [2.5]}


def test_show_knows_both_names() -> None:
    request = decode(b'{"name":"m","verbose":true}', ShowRequest)
    assert (request.name, request.model, request.verbose) == ("m", "", True)


def test_requests_are_frozen() -> None:
    with pytest.raises(ValidationError):
        decode(b"{}", ChatRequest).model = "m"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ('a"b\\', r'"a\"b\\"'),
        ("\a\b\f\n\r\t\v", r'"\a\b\f\n\r\t\v"'),
        ("\x00\x7f", r'"\x00\x7f"'),
        ("é😀", '"é😀"'),
        ("\u200b\u0085", r'"\u200b\u0085"'),
        ("\U000e0001", r'"\U000e0001"'),
    ],
)
def test_text_is_quoted_as_in_go(text: str, shown: str) -> None:
    assert quoted(text) == shown
