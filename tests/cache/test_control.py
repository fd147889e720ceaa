import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.cache.control import LONGEST_S, Controls, controls


@pytest.mark.parametrize(
    ("cache_control", "asked"),
    [
        ("", Controls()),
        ("no-store", Controls(no_store=True)),
        ("No-Cache, max-age=60", Controls(no_cache=True, max_age_s=60)),
        ("max-age=0", Controls(no_cache=True, max_age_s=0)),
        ("max-age=0 , no-store", Controls(no_store=True, no_cache=True, max_age_s=0)),
        ("only-if-cached", Controls(only_if_cached=True)),
        (",, Only-If-Cached ,\tmax-age=5,", Controls(only_if_cached=True, max_age_s=5)),
        ('max-age="30"', Controls(max_age_s=30)),
        ("max-age=60, max-age=30", Controls(max_age_s=30)),
        ("max-age=99999999999999999999", Controls(max_age_s=LONGEST_S)),
        ("min-fresh=5, max-stale, no-transform", Controls()),
        ('ext="no-store, \\"no-cache", max-age=1', Controls(max_age_s=1)),
        ("no-storex", Controls()),
        ("no-store=1", Controls(no_store=True)),
    ],
)
def test_what_a_request_asks_for(cache_control: str, asked: Controls) -> None:
    assert controls(cache_control) == asked


@pytest.mark.parametrize("text", ["max-age", "max-age=", "max-age=-1", "max-age=soon", "max-age=٣"])
def test_an_age_that_cannot_be_read_refuses_everything(text: str) -> None:
    assert controls(text) == Controls(no_cache=True, max_age_s=0)


def test_pragma_counts_only_alone() -> None:
    assert controls("", "no-cache") == Controls(no_cache=True)
    assert controls("", "max-age=0, no-store") == Controls()
    assert controls("max-age=60", "no-cache") == Controls(max_age_s=60)


@given(st.text())
def test_no_header_is_too_odd(text: str) -> None:
    assert isinstance(controls(text), Controls)


def test_an_answer_may_be_as_old_as_is_asked() -> None:
    ages = [-5, 0, 60, 60.1]
    assert [Controls(max_age_s=60).refuses(age) for age in ages] == [False, False, False, True]
    assert not any(Controls().refuses(age) for age in ages)
