import json
import math
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from serve.errors import BadRequest
from serve.wire.gojson import (
    dumps,
    loads,
    loads_whole,
    names_twice,
    number,
    timestamp,
    unix_seconds,
)
from serve.wire.goscan import MAX_DEPTH, MAX_TOKENS
from tests.wire.golden import rows

SCALARS = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text()
KEYS = st.text().filter(lambda key: "\0" not in key)
VALUES = st.recursive(
    SCALARS | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=20,
)


@pytest.mark.parametrize("row", rows("syntax"), ids=lambda row: repr(row["body"][:40]))
def test_bodies_are_read_as_go_reads_them(row: dict[str, Any]) -> None:
    body = row["body"].encode("latin-1")
    if "error" in row:
        with pytest.raises(BadRequest) as refused:
            loads(body, empty="EOF")
        assert str(refused.value) == row["error"]
    else:
        assert _as_go(loads(body)) == _as_go(json.loads(row["value"]))


def _as_go(value: object) -> object:
    """All numbers as floats, without what stands for the earlier ones of repeated keys."""
    if isinstance(value, dict):
        return {key: _as_go(item) for key, item in value.items() if "\0" not in key}
    if isinstance(value, list):
        return [_as_go(item) for item in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


@pytest.mark.parametrize("body", [b"", b" \r\n\t"])
def test_no_body_is_said_in_ollamas_words(body: bytes) -> None:
    with pytest.raises(BadRequest, match=r"^missing request body$"):
        loads(body)


def test_what_follows_the_first_value_is_ignored() -> None:
    assert loads(b' {"a":1} trailing') == {"a": 1}
    assert loads(b"3 x") == 3


def test_the_order_of_keys_is_kept() -> None:
    assert list(loads(b'{"b":1,"a":{"z":1,"y":2}}')) == ["b", "a"]  # type: ignore[call-overload]


def test_an_object_that_repeats_a_key_equals_none_that_does_not() -> None:
    assert loads(b'{"a":1,"a":2,"a":3}') == {"a": 3, "a\x001": 1, "a\x002": 2}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (rb'["\ud83d\ude00"]', "\U0001f600"),
        (rb'["\ud83d"]', "\ufffd"),
        (rb'["\ude00\ud83d"]', "\ufffd\ufffd"),
        (rb'["\\ud83d\ude00"]', "\\ud83d\ufffd"),
        (rb'["\\\ud83d\ude00"]', "\\\U0001f600"),
        (rb'["\ud83d\\ude00"]', "\ufffd\\ude00"),
        (b'["\xe2\x82 \xed\xa0\x80"]', "\ufffd\ufffd \ufffd\ufffd\ufffd"),
    ],
)
def test_what_is_no_text_becomes_a_replacement_character(body: bytes, expected: str) -> None:
    assert loads(body) == [expected]


def test_numbers_beyond_64_bits_become_floats_at_most_the_largest() -> None:
    assert loads(b'{"a":1,"a":18446744073709551616}')["a"] == 2.0**64  # type: ignore[index]
    assert loads(b"[" + b"9" * 400 + b"]") == [1.7976931348623157e308]
    assert loads(b"[-1e999]") == [-1.7976931348623157e308]
    assert loads(b"[" + b"9" * 5000 + b"]") == [1.7976931348623157e308]


@pytest.mark.parametrize(("opener", "closer"), [(b"[", b"]"), (b'{"a":', b"}")])
def test_depth_is_limited(opener: bytes, closer: bytes) -> None:
    deepest = opener * MAX_DEPTH + b"1" + closer * MAX_DEPTH
    assert loads(deepest) == json.loads(deepest)
    for depth in (MAX_DEPTH + 1, 100_000):
        with pytest.raises(BadRequest) as refused:
            loads(opener * depth + b"1" + closer * depth)
        assert str(refused.value) == f"invalid character '{chr(opener[0])}' exceeded max depth"


def test_many_flat_objects_are_not_deep() -> None:
    body = json.dumps([{"a": [1]}] * MAX_DEPTH).encode()
    assert loads(body) == json.loads(body)


def test_a_scan_ends_after_so_many_values() -> None:
    with pytest.raises(BadRequest, match=f"^more than {MAX_TOKENS} values$"):
        loads(b"[" + b"1," * (MAX_TOKENS + 1))


@given(st.binary(max_size=60))
@example(b'{"a":"\\')
@example(b'["\\u')
def test_any_bytes_are_a_value_or_a_bad_request(body: bytes) -> None:
    try:
        loads(body)
    except BadRequest:
        return


@given(st.text(alphabet='{}[]",:\\u0123ade.-+truefalsn \x00\ud800é', max_size=25))
def test_what_python_reads_is_read_and_the_rest_refused(text: str) -> None:
    body = text.encode(errors="surrogatepass")
    try:
        value = loads_whole(body)
    except BadRequest:
        with pytest.raises((msgspec.MsgspecError, UnicodeDecodeError)):
            msgspec.json.decode(body)
    else:
        assert msgspec.json.decode(dumps(value)) == value


@given(VALUES)
def test_what_is_written_is_read_again(value: object) -> None:
    assert _as_go(loads(dumps([value]))) == _as_go([value])


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "unexpected end of JSON input"),
        (b"{} x", "invalid character 'x' after top-level value"),
        (b'{"a":1e400}', "json: cannot unmarshal number 1e400 into Go value of type float64"),
    ],
)
def test_a_whole_value_has_nothing_after_it(body: bytes, text: str) -> None:
    with pytest.raises(BadRequest) as refused:
        loads_whole(body)
    assert str(refused.value) == text


def test_a_whole_value_keeps_the_last_of_repeated_keys() -> None:
    assert loads_whole(b' {"a":[1],"a":{"b":null}} ') == {"a": {"b": None}}


def test_numbers_are_printed_as_in_go() -> None:
    row = rows("numbers")[0]
    assert dumps(row["numbers"]).decode() == row["text"]
    assert number(-0.0) == "-0"


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_printed_numbers_are_the_same_numbers(value: float) -> None:
    text = number(value)
    assert float(text) == value
    assert math.copysign(1, float(text)) == math.copysign(1, value)
    assert len(text) <= 25


def test_text_is_escaped_as_in_go() -> None:
    text = '<a>&\u2028\u2029\x00\b\f\n\r\t\x1f\x7f"\\/é😀'
    assert dumps(text) == (
        '"\\u003ca\\u003e\\u0026\\u2028\\u2029\\u0000\\b\\f\\n\\r\\t\\u001f\x7f\\"\\\\/é😀"'.encode()
    )


def test_lone_surrogates_are_written_as_replacement_characters() -> None:
    assert dumps({"a\ud800": ["x\udfff", 1]}) == '{"a\ufffd":["x\ufffd",1]}'.encode()


def test_integers_beyond_64_bits_are_written_as_floats() -> None:
    assert dumps([2**64, -(2**63), True]) == b"[18446744073709552000,-9223372036854775808,true]"


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (1795444020_695183777, "2026-11-23T14:27:00.695183777Z"),
        (1795444020_690000000, "2026-11-23T14:27:00.69Z"),
        (1795444020_000000000, "2026-11-23T14:27:00Z"),
    ],
)
def test_times_are_printed_as_in_go(ns: int, text: str) -> None:
    assert timestamp(ns) == text
    assert unix_seconds(text) == ns // 1_000_000_000


def test_what_is_no_time_is_the_epoch() -> None:
    assert unix_seconds("") == 0
    assert unix_seconds("2026-11-23T15:27:00.9+01:00") == 1795444020


@pytest.mark.parametrize(
    ("body", "twice"),
    [
        (b'{"a":1,"b":{"a":1}}', False),
        (b'{"a":1,"a":1}', True),
        (b'{"a":[{"b":{"c":1,"c":2}}]}', True),
        (b'["a","a"]', False),
    ],
)
def test_names_given_twice_are_found(body: bytes, twice: bool) -> None:  # noqa: FBT001
    assert names_twice(loads(body)) is twice
