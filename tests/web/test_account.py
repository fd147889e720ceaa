"""Accounts, the cloud and experiments: as an Ollama without cloud, and no engine is asked."""

from hashlib import sha256

import pytest

from serve.errors import Unauthorized
from serve.settings import AuthSettings, Key
from tests.web.front import Front

KEYS = AuthSettings(
    keys=[Key.model_validate({"sha256": sha256(b"alpha").hexdigest(), "tenant": "a"})]
)


@pytest.mark.parametrize(
    ("method", "path", "status", "body"),
    [
        ("GET", "/api/status", 200, b'{"cloud":{"disabled":true,"source":"env"}}'),
        ("POST", "/api/me", 503, b'{"error":"account unavailable"}'),
        ("POST", "/api/signout", 500, b'{"error":"there was an error signing out"}'),
        ("DELETE", "/api/user/keys/abc", 500, b'{"error":"there was an error signing out"}'),
        ("POST", "/api/experimental/web_search", 400, b'{"error":"missing request body"}'),
        ("POST", "/api/me/", 307, b""),
        ("POST", "/api/web_search", 404, b"404 page not found"),
        ("DELETE", "/api/user/keys/a/b", 404, b"404 page not found"),
        ("GET", "/api/me", 405, b"405 method not allowed"),
    ],
)
async def test_answered_without_an_engine(method: str, path: str, status: int, body: bytes) -> None:
    front = Front([])
    got = await front.ask(method, path)
    assert (got.status, got.body) == (status, body)
    assert front.pool.calls == []


async def test_a_search_is_refused_and_its_body_bounded() -> None:
    refused = await Front([]).ask("POST", "/api/experimental/web_fetch", b'{"url":"x"}')
    assert refused.status == 403
    assert refused.body == b'{"error":"ollama cloud is disabled: web fetch is unavailable"}'
    large = await Front([]).ask("POST", "/api/experimental/web_fetch", b" " * 1001)
    assert large.status == 413


async def test_a_key_is_needed_where_keys_are() -> None:
    got = await Front([], auth=KEYS).ask("GET", "/api/status")
    assert got.status == Unauthorized.status
    header = [(b"authorization", b"Bearer alpha")]
    known = await Front([], auth=KEYS).ask("GET", "/api/status", headers=header)
    assert known.status == 200
