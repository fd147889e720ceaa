from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.cache.index import Selection
from serve.cache.store import OVERHEAD_BYTES, Store, Stored, weight
from serve.settings import CacheSettings
from tests.cache.world import HandClock, until

KEYS = [bytes([number]) * 16 for number in range(40)]


def store(max_bytes: int = 1 << 20, **settings: object) -> Store:
    return Store(CacheSettings.model_validate(settings), max_bytes, HandClock())


def stored(size: int = 100, model: str = "m", expires_at: float = 2000.0) -> Stored:
    return Stored(bytes(size), model, "d", "f", expires_at)


puts = st.lists(
    st.tuples(st.sampled_from(KEYS), st.integers(0, 4000), st.sampled_from(["m", "n"])),
    max_size=120,
)


@pytest.mark.parametrize("eviction", ["lru", "tiny_lfu"])
@given(puts, st.integers(1, 20_000))
def test_never_holds_more_than_its_bytes(
    eviction: Literal["lru", "tiny_lfu"], said: list[tuple[bytes, int, str]], max_bytes: int
) -> None:
    tested = store(max_bytes, eviction=eviction)
    for key, size, model in said:
        tested.put(key, stored(size, model))
        held = [(key, was) for key in KEYS if (was := tested.get(key)) is not None]
        assert sum(weight(*pair) for pair in held) == tested.held_bytes <= max_bytes
        assert len(held) == tested.entries


@given(puts)
def test_a_purge_finds_what_is_there_and_nothing_else(said: list[tuple[bytes, int, str]]) -> None:
    """So the index beside moka is true, whatever was replaced, evicted and removed."""
    tested = store(20_000)
    for key, size, model in said:
        tested.put(key, stored(size, model))
        tested.remove(KEYS[size % len(KEYS)])
    there = [was.model for key in KEYS if (was := tested.get(key)) is not None]
    assert tested.purge(Selection(frozenset("m")))[0] == there.count("m")
    assert tested.entries == there.count("n")
    assert tested.purge()[0] == there.count("n")
    assert tested.index.tenants() == {}


def test_counts_why_entries_left() -> None:
    tested = store(2 * weight(KEYS[0], stored()))
    tested.put(KEYS[0], stored())
    tested.put(KEYS[0], stored())
    tested.put(KEYS[1], stored())
    tested.put(KEYS[2], stored())
    assert tested.remove(KEYS[2])
    assert not tested.remove(KEYS[2])
    assert tested.evictions == {"replaced": 1, "size": 1, "explicit": 1}


def test_lru_drops_what_was_not_asked_for() -> None:
    tested = store(2 * weight(KEYS[0], stored()), eviction="lru")
    tested.put(KEYS[0], stored())
    tested.put(KEYS[1], stored())
    assert tested.get(KEYS[0])
    tested.put(KEYS[2], stored())
    assert tested.get(KEYS[0])
    assert tested.get(KEYS[1]) is None


def test_what_is_over_already_is_not_stored() -> None:
    assert not store().put(KEYS[0], stored(expires_at=1000.0))


async def test_memory_is_freed_without_anybody_asking() -> None:
    """moka's own clock, which can't be moved by hand."""
    tested = store()
    tested.put(KEYS[0], stored(expires_at=1000.05))

    def is_freed() -> bool:
        tested.sweep()
        return tested.entries == 0

    await until(is_freed)
    assert tested.evictions == {"expired": 1}
    assert tested.index.tenants() == {}


async def test_what_nobody_asks_for_leaves_early() -> None:
    tested = store(idle_ttl_s=0.05)
    tested.put(KEYS[0], stored())

    def is_gone() -> bool:
        tested.sweep()
        return tested.entries == 0

    await until(is_gone)


@pytest.mark.parametrize("longest", [1e12, 1e300, float("inf")])
def test_for_ever_is_a_time_too(longest: float) -> None:
    tested = store(ttl_s=longest, idle_ttl_s=longest)
    assert tested.put(KEYS[0], stored(expires_at=1000.0 + longest))
    assert tested.get(KEYS[0]) is not None


def test_the_listener_may_come_late() -> None:
    """It names the object that left; the one that took its place stays in the index."""
    tested = store()
    old, new = stored(1), stored(2)
    tested.put(KEYS[0], new)
    tested._evicted(KEYS[0], old, "expired")
    assert tested.purge(Selection(frozenset("m"))) == (1, weight(KEYS[0], new))


def test_an_entry_weighs_more_than_its_bytes() -> None:
    assert weight(KEYS[0], stored(100)) == 16 + 100 + OVERHEAD_BYTES
