"""Requests that no client library sends: bodies, headers, verbs and paths that are off."""

import json
from collections.abc import Callable
from typing import Any

from backports import zstd
from hypothesis import strategies as st

from tests.fuzz.judge import Asked
from tests.fuzz.steer import GOOD

_STREAMED = [{}, {}, {"stream": True}, {"stream": False}]
_PATHS = [
    *("/", "/nope", "/api", "/api/", "/v1/", "/api/chat/", "//api/chat", "/api//tags", "/API/tags"),
    *("/api/./tags", "/api/../api/tags", "/api/blobs/", "/api/blobs/sha256:" + "0" * 64),
    *("/api/blobs/sha256:zz", "/api/blobs/a%2Fb", "/api/user/keys/%00", "/api/user/keys/"),
    *("/v1/models/", "/v1/models/%2F", "/v1/models/a/b/c/d/e/f", "/v1/models/%FF%FE"),
    *("/v1/models/smollm2:135m", "/v1/models/..%2F..%2Fx", "/v1/models/%20", "/v1/models/%0A"),
    *("/api/version?x=%00", "/api/tags?%FF", "/api/%74ags", "/%2Fapi%2Ftags", "/api/tags;x=1"),
    *(
        "/openapi.json/",
        "/healthz/",
        "/readyz?now",
        "/rayllama/report",
        "/-/status",
        "/admin/fleet",
    ),
]
_VERBS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PURGE"]
_HEADERS: list[tuple[str, str]] = [
    *[
        ("Content-Type", value)
        for value in ("", "text/plain", "application/xml", "multipart/form-data")
    ],
    *[("Content-Type", f"multipart/form-data; boundary={edge}") for edge in ("", "x", '"')],
    *[
        ("Origin", value)
        for value in ("http://localhost:3000", "http://evil.example", "null", "\xff")
    ],
    *[
        ("Host", value)
        for value in ("evil.example", "localhost", "", "[::1]:1", "127.0.0.1:x", "\xe9")
    ],
    *[("Authorization", value) for value in ("Bearer x", "Bearer", "Basic eA==", "")],
    *[("x-api-key", value) for value in ("x", "", "\xff")],
    *[("Content-Encoding", value) for value in ("zstd", "gzip", "zstd, zstd", "nope")],
    *[("x-request-id", value) for value in ("mine", "", "\xff", "x" * 200, "a b")],
    *[("x-session-id", value) for value in ("s", "\xff" * 300)],
    *[("Expect", "nothing"), ("Pragma", "no-cache"), ("Range", "bytes=0-1"), ("Accept", "\xff")],
    *[("Connection", "close"), ("If-None-Match", "*"), ("Accept-Encoding", "zstd;q=x")],
]
_CONTROLS = [
    *("no-cache", "no-store", "max-age=0", "max-age=-1", "max-age=x", "max-age=" + "9" * 400),
    *("only-if-cached", "stale-if-error=" + "9" * 30, "max-age", ",,,", "=", "\xff", 'max-age="5"'),
    *("no-cache, only-if-cached", "max-age=5, max-age=6", "max-stale=1e400", "min-fresh=-0"),
]


@st.composite
def odd_bodies(draw: Callable[[Any], Any], good: dict[str, Any]) -> bytes:
    """A body that is off."""
    whole = json.dumps(good).encode()
    key = draw(st.sampled_from(sorted(good)))
    odd = draw(st.sampled_from(_ODD))
    inner = json.dumps({**good, key: "\0"}).encode()
    cut = draw(st.integers(0, len(whole)))
    made: dict[str, Callable[[], bytes]] = {
        "cut": lambda: whole[:cut],
        "more": lambda: whole + draw(st.sampled_from([b" ", b"{}", b"x", b"\0", b"]"])),
        "flipped": lambda: whole[:cut] + draw(st.binary(max_size=3)) + whole[cut + 1 :],
        "odd value": lambda: inner.replace(b'"\\u0000"', odd),
        "twice": lambda: whole[:-1] + b', "%b": %b}' % (key.upper().encode(), odd),
        "odd body": lambda: odd,
        "unknown": lambda: whole[:-1] + b', "%b": %b}' % (b"\\u00e9", odd),
        "marked": lambda: b"\xef\xbb\xbf" + whole,
        "wide": lambda: whole.decode().encode("utf-16"),
    }
    return made[draw(st.sampled_from(sorted(made)))]()


_ODD = [
    *(b"", b"null", b"true", b"0", b"-0", b"1e999", b"-1e-999", b"1e5", b"0.5", b"01", b"NaN"),
    *(b"9" * 30, b"9" * 5000, b"1." + b"1" * 5000, b"Infinity", b'"', b'"\\ud800"', b'"\\x"'),
    *(
        b'"\xff"',
        b'"\xed\xa0\x80"',
        b'"\0"',
        b'"\\u0000"',
        b"[]",
        b"{}",
        b"[null]",
        b'[""]',
        b"[[]]",
    ),
    *(
        b'{"": null}',
        b'{"a": 1, "a": 2}',
        b"[1, {}]",
        b'"' + b"x" * 5000 + b'"',
        b"'a'",
        b"{'a': 1}",
    ),
    *(b"[" * 900 + b"]" * 900, b"[" * 20_000, b"[" * 20_000 + b"]" * 20_000),
    *(b'{"a":' * 5000 + b"1" + b"}" * 5000, b'[{"a":' * 600, b"// a\n1", b"\x1f\x8b", b"\t\n "),
]


def odd_headers() -> st.SearchStrategy[list[tuple[str, str]]]:
    """A header or two that are off."""
    return st.lists(st.sampled_from(_HEADERS), max_size=2, unique_by=lambda pair: pair[0])


@st.composite
def raw_requests(draw: Callable[[Any], Any]) -> Asked:
    """A request that is off in one or more ways."""
    path = draw(st.sampled_from(sorted(GOOD)))
    method, good = GOOD[path]
    good = good | draw(st.sampled_from(_STREAMED))
    whole = json.dumps(good).encode()
    body = draw(odd_bodies(good)) if draw(st.integers(0, 2)) else whole
    if draw(st.integers(0, 3)) == 0:
        path = draw(st.sampled_from([*_PATHS, "/v1/audio/transcriptions"]))
    if draw(st.integers(0, 3)) == 0:
        method = draw(st.sampled_from(_VERBS))
    headers = draw(odd_headers())
    if draw(st.integers(0, 2)) == 0:
        headers.append(("Cache-Control", draw(st.sampled_from(_CONTROLS))))
    if ("Content-Encoding", "zstd") in headers and draw(st.booleans()):
        body = zstd.compress(body)
        body = body[: draw(st.integers(0, len(body)))] if draw(st.booleans()) else body
    return Asked(method, path, headers, body, is_chunked=draw(st.booleans()))
