from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.cache.recognise import RAW_KEY_BYTES, SHAPING_HEADERS, raw_key

REQUEST: dict[str, Any] = {
    "method": "POST",
    "path": "/api/chat",
    "query": b"",
    "tenant": "default",
    "headers": {b"host": b"127.0.0.1", b"accept": b"*/*"},
    "body": b'{"model":"m"}',
}


def key(**changes: object) -> bytes:
    return raw_key(**(REQUEST | changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "PUT"},
        {"path": "/api/generate"},
        {"query": b"ts=1"},
        {"tenant": "other"},
        {"body": b'{"model": "m"}'},
        {"body": b""},
    ],
)
def test_every_part_counts(changes: dict[str, object]) -> None:
    assert key(**changes) != key()


@pytest.mark.parametrize("name", SHAPING_HEADERS)
def test_headers_that_shape_a_reply_count(name: bytes) -> None:
    headers = REQUEST["headers"]
    assert key(headers=headers | {name: b"x"}) != key()
    assert key(headers=headers | {name: b""}) != key(headers=headers | {name: b"x"})


def test_an_empty_header_is_not_an_absent_one() -> None:
    assert key(headers={b"origin": b""}) != key(headers={})


@pytest.mark.parametrize(
    "name", [b"authorization", b"user-agent", b"content-type", b"x-request-id"]
)
def test_other_headers_do_not(name: bytes) -> None:
    assert key(headers=REQUEST["headers"] | {name: b"x"}) == key()


def test_values_do_not_wander_from_header_to_header() -> None:
    assert len({key(headers={name: b"x"}) for name in SHAPING_HEADERS}) == len(SHAPING_HEADERS)


@given(st.binary(), st.binary(), st.text(), st.binary(), st.binary())
def test_parts_do_not_run_together(
    query: bytes, body: bytes, tenant: str, other_query: bytes, other_body: bytes
) -> None:
    one = key(query=query, body=body, tenant="t" + tenant.encode("utf-8", "ignore").hex())
    other = key(
        query=other_query, body=other_body, tenant="t" + tenant.encode("utf-8", "ignore").hex()
    )
    assert (one == other) is ((query, body) == (other_query, other_body))
    assert len(one) == RAW_KEY_BYTES
