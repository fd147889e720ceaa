"""What an answer is worth, by the engine's own words."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.cache.entry import VECTOR_TYPE, Worth
from serve.cache.vectors import pack, split
from serve.cache.worth import NOTHING, is_worth_it, kept_s, of_vectors, told, worth_of
from tests.cache.world import CHATTED, EMBEDDED, GENERATED, entry

NANOSECONDS = st.integers(0, 1 << 45)
BYTES = st.integers(1, 1 << 30)
LEAST = st.floats(0, 1e9)


def test_a_generation_counts_by_its_two_phases_and_an_embedding_as_a_whole() -> None:
    assert told(GENERATED) == Worth(14, 37607000 + 82489000)
    assert told(CHATTED) == Worth(14, 82489000)
    assert told(EMBEDDED) == Worth(3, 10034836)
    assert worth_of(entry(GENERATED)) == told(GENERATED)


@pytest.mark.parametrize(
    "line", [b"", b"{", b"[]", b'{"eval_count":-1}', b'{"eval_duration":99999999999999999999}']
)
def test_what_makes_no_sense_is_worth_nothing(line: bytes) -> None:
    assert told([line]) == NOTHING == told([])


def test_a_vector_is_worth_its_share_of_the_call() -> None:
    body = b'{"model":"m","embeddings":[[0.5],[0.25]],"total_duration":100,"prompt_eval_count":6}'
    made = split(body, ["a", "b"])
    assert made is not None
    assert of_vectors(made) == Worth(6, 100)
    assert worth_of(entry((pack(made[0]),), content_type=VECTOR_TYPE)) == Worth(3, 50)


@given(NANOSECONDS, NANOSECONDS, BYTES, BYTES, LEAST)
def test_longer_made_or_smaller_is_never_worth_less(
    ns: int, more_ns: int, size: int, more_size: int, least: float
) -> None:
    if is_worth_it(ns, size + more_size, least):
        assert is_worth_it(ns + more_ns, size, least)


@given(NANOSECONDS, BYTES)
def test_everything_is_worth_nothing_at_least(ns: int, size: int) -> None:
    assert is_worth_it(ns, size, 0)


def test_the_least_worth_is_in_milliseconds_a_kibibyte() -> None:
    assert is_worth_it(6_000_000, 2048, 3)
    assert not is_worth_it(5_999_999, 2048, 3)


@given(NANOSECONDS, NANOSECONDS, BYTES, BYTES, LEAST, st.floats(0, 1e9))
def test_longer_made_or_smaller_never_leaves_earlier(
    ns: int, more_ns: int, size: int, more_size: int, full: float, longest_s: float
) -> None:
    less = kept_s(ns, size + more_size, full, longest_s)
    assert 0 <= less <= kept_s(ns + more_ns, size, full, longest_s) <= longest_s
    assert kept_s(ns, size, 0, longest_s) == longest_s


def test_half_the_worth_stays_half_the_time_but_a_minute_at_least() -> None:
    assert kept_s(5_000_000, 1024, 10, 3600) == 1800
    assert kept_s(0, 1024, 10, 3600) == 60
    assert kept_s(0, 1024, 10, 5) == 5
