from hypothesis import given
from hypothesis import strategies as st

from serve.cache.catalogue import EMPTY, Catalogue, Registry
from serve.ports import CatalogueView, Model, Report
from tests.cache.world import DIGEST, FINGERPRINT, MODEL, report

REPORT_LEASE_S = 3.0
LEASE_S = 2.0


def view(epoch: int = 1, fingerprint: str = FINGERPRINT, **digests: str) -> CatalogueView:
    models = {name: Model(digest) for name, digest in (digests or {MODEL: DIGEST}).items()}
    return CatalogueView(epoch, fingerprint, "0.33.0", models)


def digests(registry: Registry) -> dict[str, str]:
    return {name: model.digest for name, model in registry.view.models.items()}


def test_knows_nothing_at_first() -> None:
    registry = Registry(REPORT_LEASE_S)
    assert registry.view == EMPTY
    assert not registry.vouches(MODEL, "", "")


def test_one_replica_is_believed() -> None:
    registry = Registry(REPORT_LEASE_S)
    changed = registry.report(report(), now=0)
    assert changed == registry.view
    assert registry.view.epoch == 1
    assert registry.view.engine_version == "0.33.0"
    assert registry.vouches(MODEL, DIGEST, FINGERPRINT)
    assert not registry.vouches(MODEL, "other", FINGERPRINT)
    assert not registry.vouches(MODEL, DIGEST, "other")
    assert not registry.vouches("other", DIGEST, FINGERPRINT)


def test_saying_it_again_changes_nothing() -> None:
    registry = Registry(REPORT_LEASE_S)
    registry.report(report("r1"), now=0)
    assert registry.report(report("r1"), now=1) is None
    assert registry.report(report("r2"), now=1) is None
    assert (registry.view.epoch, registry.replicas) == (1, 2)


def test_another_digest_is_another_view() -> None:
    registry = Registry(REPORT_LEASE_S)
    registry.report(report(m="d1"), now=0)
    changed = registry.report(report(m="d2"), now=1)
    assert changed is not None
    assert changed.epoch == 2
    assert digests(registry) == {"m": "d2"}


def test_a_model_is_known_by_all_names_of_its_digest() -> None:
    registry = Registry(REPORT_LEASE_S)
    registry.report(report(a="d1", b="d2", c="d1"), now=0)
    assert registry.names_of("a") == registry.names_of("c") == {"a", "c"}
    assert registry.names_of("gone") == {"gone"}
    assert registry.names_of("") == set()


def test_a_name_in_dispute_has_no_digest() -> None:
    registry = Registry(REPORT_LEASE_S)
    registry.report(report("r1", m="d1", n="d"), now=0)
    registry.report(report("r2", m="d2", n="d"), now=0)
    registry.report(report("r3", m="d1", n="d"), now=0)
    assert digests(registry) == {"n": "d"}
    registry.report(report("r2", m="d1", n="d"), now=1)
    assert digests(registry) == {"n": "d", "m": "d1"}


def test_who_does_not_list_a_model_does_not_dispute_it() -> None:
    registry = Registry(REPORT_LEASE_S)
    registry.report(report("r1", m="d1"), now=0)
    registry.report(report("r2", n="d2"), now=0)
    assert digests(registry) == {"m": "d1", "n": "d2"}


def test_a_model_without_a_digest_is_left_out() -> None:
    registry = Registry(REPORT_LEASE_S)
    registry.report(report(m=""), now=0)
    assert digests(registry) == {}


def test_engines_that_differ_have_no_fingerprint_in_common() -> None:
    registry = Registry(REPORT_LEASE_S)
    registry.report(report("r1", "old", "0.32"), now=0)
    registry.report(report("r2", "new", "0.33"), now=0)
    assert (registry.view.fingerprint, registry.view.engine_version) == ("", "0.32")
    assert not registry.vouches(MODEL, DIGEST, "")
    assert registry.expire(now=2) is None
    registry.report(report("r2", "new", "0.33"), now=2)
    assert registry.expire(now=3) is not None
    assert (registry.view.fingerprint, registry.view.engine_version) == ("new", "0.33")


def test_the_silent_are_forgotten() -> None:
    registry = Registry(REPORT_LEASE_S)
    registry.report(report("r1", m="d1"), now=0)
    registry.report(report("r2", m="d2"), now=1)
    assert registry.expire(now=2.9) is None
    assert registry.expire(now=3) == registry.view
    assert digests(registry) == {"m": "d2"}
    registry.expire(now=4)
    assert (digests(registry), registry.replicas) == ({}, 0)


replicas = st.sampled_from(["r1", "r2", "r3"])
listings = st.dictionaries(st.sampled_from(["m", "n"]), st.sampled_from(["", "d1", "d2"]))
events = st.lists(st.tuples(replicas, listings, st.sampled_from(["f1", "f2"]), st.floats(0, 2)))


@given(events)
def test_two_who_disagree_never_yield_a_digest(
    said: list[tuple[str, dict[str, str], str, float]],
) -> None:
    registry = Registry(REPORT_LEASE_S)
    now = 0.0
    live: dict[str, tuple[dict[str, str], str, float]] = {}
    for replica, listing, fingerprint, pause_s in said:
        now += pause_s
        before = registry.view
        models = {name: Model(digest) for name, digest in listing.items()}
        registry.expire(now)
        registry.report(Report(replica, "v", fingerprint, models), now)
        live[replica] = (listing, fingerprint, now)
        live = {name: was for name, was in live.items() if now - was[2] < REPORT_LEASE_S}
        assert registry.replicas == len(live)
        for name in ("m", "n"):
            listed = {listing[name] for listing, _, _ in live.values() if name in listing}
            agreed = listed.pop() if len(listed) == 1 else ""
            assert digests(registry).get(name, "") == agreed
        prints = {fingerprint for _, fingerprint, _ in live.values()}
        assert registry.view.fingerprint == (prints.pop() if len(prints) == 1 else "")
        assert (registry.view == before) is (registry.view.epoch == before.epoch)
        assert registry.view.epoch >= before.epoch


def test_a_view_without_a_lease_is_not_believed() -> None:
    catalogue = Catalogue(LEASE_S)
    catalogue.adopt(view())
    assert not catalogue.is_live(now=0)
    assert catalogue.digest(MODEL, now=0) == ""
    assert not catalogue.vouches(MODEL, DIGEST, FINGERPRINT, 0)


def test_a_lease_runs_from_when_it_was_asked_for() -> None:
    catalogue = Catalogue(LEASE_S)
    catalogue.adopt(view())
    catalogue.renew(1, asked_at=10)
    assert catalogue.digest(MODEL, now=11.9) == DIGEST
    assert catalogue.vouches(MODEL, DIGEST, FINGERPRINT, 11.9)
    assert not catalogue.vouches(MODEL, DIGEST, FINGERPRINT, 12)
    assert catalogue.digest("other", now=11) == ""


def test_a_renewal_that_comes_late_does_not_shorten_a_lease() -> None:
    catalogue = Catalogue(LEASE_S)
    catalogue.adopt(view())
    catalogue.renew(1, asked_at=10)
    catalogue.renew(1, asked_at=9)
    assert catalogue.is_live(now=11.5)


def test_a_renewal_of_another_view_renews_nothing() -> None:
    catalogue = Catalogue(LEASE_S)
    catalogue.adopt(view(epoch=1))
    catalogue.renew(2, asked_at=10)
    assert not catalogue.is_live(now=10)


def test_a_pushed_view_counts_at_once_within_the_lease() -> None:
    catalogue = Catalogue(LEASE_S)
    catalogue.adopt(view(epoch=1))
    catalogue.renew(1, asked_at=10)
    catalogue.adopt(view(epoch=2, **{MODEL: "new"}))
    assert catalogue.digest(MODEL, now=11) == "new"
    assert not catalogue.vouches(MODEL, DIGEST, FINGERPRINT, 11)
    assert not catalogue.is_live(now=12)


def test_mixed_engines_vouch_for_nothing() -> None:
    catalogue = Catalogue(LEASE_S)
    catalogue.adopt(view(fingerprint=""))
    catalogue.renew(1, asked_at=10)
    assert catalogue.digest(MODEL, now=10) == DIGEST
    assert not catalogue.vouches(MODEL, DIGEST, "", 10)
