"""Which requests have a key; that HAProxy makes the same is shown in `test_rules`."""

import pytest

from serve.cache.recognise import SHAPING_HEADERS
from serve.edge.key import edge_key
from serve.edge.rules import KEYED, ODD

HOST = (b"host", b"a")


@pytest.mark.parametrize(
    "headers",
    [
        [(b"accept", b"a"), (b"accept", b"a")],
        [(b"authorization", b"Bearer \xff")],
        [(b"authorization", b"Bearer a%01")],
        [(b"x-api-key", b"a\x01")],
        [(b"cache-control", b"max-age=1")],
        [(b"x-rayllama-replica", b"r1")],
        [(b"origin", b"http://localhost")],
    ],
)
def test_some_requests_have_none(headers: list[tuple[bytes, bytes]]) -> None:
    assert edge_key("/api/chat", b"", [HOST, *headers], b"{}") is None


def test_paths_and_queries_that_have_none() -> None:
    assert edge_key("/api/tags", b"", [HOST], b"{}") is None
    assert edge_key("/api/chat", b"a=%20", [HOST], b"{}") is None


def test_what_shapes_a_reply_is_in_the_key_or_not_for_the_edge() -> None:
    for name in SHAPING_HEADERS:
        known = name.decode()
        assert known in KEYED or any(odd in known for odd in ODD)
