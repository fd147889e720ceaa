"""Bodies in zstd, bounded by what they unpack to."""

import json
from typing import Any

import pytest
from backports import zstd

from serve.errors import BadRequest, BodyTooLarge
from serve.web.packed import is_packed, unpacked
from serve.web.routes import INFERENCE, PACKED
from tests.web.front import Front
from tests.web.scripted_pool import NDJSON, line

ASKED: dict[str, Any] = {
    "model": "m",
    "messages": [{"role": "user", "content": "hi"}],
    "max_tokens": 9,
    "input": "hi",
    "prompt": "hi",
}


def test_frames_are_put_together() -> None:
    skipped = b"\x50\x2a\x4d\x18\x03\x00\x00\x00abc"
    body = zstd.compress(b"one ") + skipped + zstd.compress(b"two")
    assert unpacked(body, 7) == b"one two"
    assert unpacked(b"", 7) == b""


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b'{"model":"m"}', "magic number mismatch"),
        (b"\x28", "unexpected EOF"),
        (zstd.compress(b"x") + b"xx", "unexpected EOF"),
        (zstd.compress(b"x" * 100)[:-3], "unexpected EOF"),
        (b"\x28\xb5\x2f\xfd" + b"\xff" * 20, "failed to decompress"),
        (zstd.compress(b"x") + b"more", "magic number mismatch"),
    ],
)
def test_what_is_no_zstd_is_refused(body: bytes, text: str) -> None:
    with pytest.raises(BadRequest, match=text):
        unpacked(body, 1000)


def test_a_small_body_that_unpacks_to_a_large_one_is_refused() -> None:
    bomb = zstd.compress(bytes(50_000_000))
    assert len(bomb) < 10_000
    with pytest.raises(BodyTooLarge):
        unpacked(bomb, 1000)
    many = zstd.compress(bytes(600)) * 2
    assert len(unpacked(many, 1200)) == 1200
    with pytest.raises(BodyTooLarge):
        unpacked(many, 1199)


def test_a_body_of_very_many_frames_is_refused() -> None:
    assert unpacked(zstd.compress(b"x") * 16, 1000) == b"x" * 16
    with pytest.raises(BadRequest, match="more than 16"):
        unpacked(zstd.compress(b"x") * 17, 1000)


def test_a_frame_may_not_ask_for_a_larger_window_than_ollama_gives() -> None:
    options: dict[int, int] = {zstd.CompressionParameter.window_log: 24}
    compressor = zstd.ZstdCompressor(options=options)
    body = compressor.compress(b"x" * 100) + compressor.flush()
    with pytest.raises(BadRequest):
        unpacked(body, 1000)


@pytest.mark.parametrize("path", sorted(PACKED))
async def test_other_dialects_take_it(path: str) -> None:
    front = Front([NDJSON, line("hi", done=True)])
    body = zstd.compress(json.dumps(ASKED).encode())
    await front.post(path, body, content_encoding="zstd")
    assert json.loads(front.pool.calls[0].body)["model"] == "m"


async def test_what_is_no_zstd_is_refused_in_ollamas_own_dialect() -> None:
    refused = await Front([]).post("/v1/messages", b'{"a":1}', content_encoding="zstd")
    assert refused.status == 400
    assert json.loads(refused.body) == {"error": "invalid input: magic number mismatch"}


async def test_what_is_too_large_is_refused_in_the_clients() -> None:
    large = zstd.compress(bytes(2000))
    refused = await Front([]).post("/v1/responses", large, content_encoding="zstd")
    assert refused.status == 413
    assert b"the limit is 1000 bytes" in refused.body


async def test_ollamas_own_routes_do_not_heed_it() -> None:
    front = Front([NDJSON, line("hi", done=True)])
    got = await front.post("/api/chat", json.dumps(ASKED).encode(), content_encoding="zstd")
    assert got.status == 200
    assert {"/api/chat", "/v1/audio/transcriptions"} <= INFERENCE - PACKED


def test_no_other_encoding_is_heeded() -> None:
    assert not is_packed({b"content-encoding": b"gzip"})
    assert not is_packed({})
