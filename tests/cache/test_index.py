from hypothesis import given
from hypothesis import strategies as st

from serve.cache.index import Selection
from serve.cache.store import Store, Stored, ordered_weight, weight
from serve.settings import CacheSettings
from tests.cache.world import HandClock

KEYS = [bytes([number]) * 16 for number in range(12)]
ENTRY = Stored(bytes(100), "m", "d", "f", 0.0)
SIZE, ORDERED = weight(KEYS[0], ENTRY), ordered_weight(KEYS[0], ENTRY)


def stored(tenant: str = "a", model: str = "m", size: int = 100, at: float = 1000.0) -> Stored:
    return Stored(bytes(size), model, "d", "f", 2000.0, tenant, at)


def store(share: float = 1.0, entries: int = 10) -> Store:
    size = SIZE if share == 1 else ORDERED
    return Store(CacheSettings(tenant_share=share), entries * size, HandClock())


puts = st.lists(
    st.tuples(
        st.sampled_from(KEYS), st.sampled_from("ab"), st.sampled_from("mn"), st.integers(0, 300)
    ),
    max_size=80,
)


@given(puts, st.sampled_from([0.3, 0.5, 1.0]))
def test_is_true_whatever_was_stored_and_left(
    said: list[tuple[bytes, str, str, int]], share: float
) -> None:
    tested, weigh = store(share), weight if share == 1 else ordered_weight
    for key, tenant, model, size in said:
        tested.put(key, stored(tenant, model, size))
        tested.remove(KEYS[size % len(KEYS)])
        there = [(key, was) for key in KEYS if (was := tested.get(key)) is not None]
        tenants = {
            name: (len(mine), sum(weigh(*pair) for pair in mine))
            for name in "ab"
            if (mine := [pair for pair in there if pair[1].tenant == name])
        }
        assert tested.index.tenants() == tenants
        if share < 1:
            assert all(held <= share * 10 * ORDERED for _, held in tenants.values())
    for tenant, model in (("a", "m"), ("b", ""), ("", "n"), ("", "")):
        fit = [k for k in KEYS if (s := tested.get(k)) is not None and fits(s, tenant, model)]
        which = Selection(frozenset([model] if model else []), tenant)
        dry = tested.purge(which, dry_run=True)
        assert dry == tested.purge(which)
        assert dry[0] == len(fit)
        assert all(tested.get(key) is None for key in fit)
    assert (tested.entries, tested.held_bytes, tested.index.tenants()) == (0, 0, {})


def fits(entry: Stored, tenant: str, model: str) -> bool:
    return tenant in ("", entry.tenant) and model in ("", entry.model)


def test_over_its_share_a_tenant_loses_what_it_asked_for_least_recently() -> None:
    tested = store(share=0.3)
    tested.put(KEYS[9], stored("b"))
    for key in KEYS[:3]:
        tested.put(key, stored())
    tested.get(KEYS[0])
    tested.put(KEYS[3], stored())
    assert [key in kept(tested) for key in KEYS[:4]] == [True, False, True, True]
    assert KEYS[9] in kept(tested)
    tested.put(KEYS[4], stored(size=100 + ORDERED))
    assert kept(tested) == {KEYS[3], KEYS[4], KEYS[9]}
    assert tested.evictions == {"share": 3}


def test_what_no_share_could_hold_is_refused() -> None:
    tested = store(share=0.3)
    tested.put(KEYS[0], stored())
    assert not tested.put(KEYS[1], stored(size=3 * ORDERED))
    assert kept(tested) == {KEYS[0]}


def kept(tested: Store) -> set[bytes]:
    return {key for key, _ in tested.index.select(Selection(), 2000.0)}


def test_selects_by_age_and_by_key() -> None:
    tested = store()
    tested.put(KEYS[0], stored(at=900.0))
    tested.put(KEYS[1], stored(at=950.0))
    assert tested.purge(Selection(older_than_s=50), dry_run=True) == (2, 2 * SIZE)
    assert tested.purge(Selection(older_than_s=50.1)) == (1, SIZE)
    assert tested.purge(Selection(key=KEYS[0])) == (0, 0)
    assert tested.purge(Selection(key=KEYS[1], tenant="b")) == (0, 0)
    assert tested.index.holds(KEYS[1], stored())
    assert not tested.index.holds(KEYS[1], stored("b"))
    assert not tested.index.holds(KEYS[1], stored(model="n"))
    assert tested.purge(Selection(key=KEYS[1], tenant="a")) == (1, SIZE)
