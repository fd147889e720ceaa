from typing import Any

import pytest

from serve.cache.near import OVERHEAD_BYTES, Near, NearReply
from serve.settings import CacheSettings
from tests.cache.world import DIGEST, FINGERPRINT, KEY, MODEL, until

NOW = 1000.0


class Vouching:
    """What a catalogue says, changed by the tests."""

    def __init__(self) -> None:
        self.current = (MODEL, DIGEST, FINGERPRINT)
        self.until = NOW + 2

    def __call__(self, model: str, digest: str, fingerprint: str, now: float) -> bool:
        return now < self.until and (model, digest, fingerprint) == self.current


@pytest.fixture
def vouches() -> Vouching:
    return Vouching()


def near(vouches: Vouching, **settings: Any) -> Near:
    return Near(CacheSettings(**settings), vouches)


def reply(body: bytes = b"{}", expires_at: float = NOW + 60) -> NearReply:
    headers = ((b"content-type", b"application/json"),)
    return NearReply(MODEL, DIGEST, FINGERPRINT, KEY, 1e9, expires_at, 200, headers, body)


def test_gives_back_the_reply_to_the_same_bytes(vouches: Vouching) -> None:
    tested = near(vouches)
    tested.put(b"raw", reply())
    assert tested.get(b"raw", NOW) == reply()
    assert tested.get(b"other", NOW) is None


@pytest.mark.parametrize("part", [0, 1, 2])
def test_serves_only_what_is_current(vouches: Vouching, part: int) -> None:
    tested = near(vouches)
    tested.put(b"raw", reply())
    current = list(vouches.current)
    current[part] = "other"
    was, vouches.current = vouches.current, (current[0], current[1], current[2])
    assert tested.get(b"raw", NOW) is None
    vouches.current = was
    assert tested.get(b"raw", NOW) is not None


def test_serves_nothing_without_a_lease(vouches: Vouching) -> None:
    tested = near(vouches)
    tested.put(b"raw", reply())
    assert tested.get(b"raw", NOW + 2) is None


def test_a_reply_lives_as_long_as_its_entry(vouches: Vouching) -> None:
    vouches.until = float("inf")
    tested = near(vouches)
    tested.put(b"raw", reply(expires_at=NOW + 60))
    assert tested.get(b"raw", NOW + 59.9) is not None
    assert tested.get(b"raw", NOW + 60) is None


async def test_an_idle_reply_leaves(vouches: Vouching) -> None:
    tested = near(vouches, idle_ttl_s=0.05)
    tested.put(b"raw", reply())

    def is_gone() -> bool:
        tested._moka.run_pending_tasks()
        return tested.entries == 0

    await until(is_gone)


def test_stays_within_its_bytes(vouches: Vouching) -> None:
    tested = near(vouches, near_max_bytes=20_000)
    for number in range(100):
        tested.put(b"%d" % number, reply(bytes(1000)))
        assert tested.held_bytes <= 20_000
    assert tested.entries == 20_000 // (1000 + OVERHEAD_BYTES + 2)
    tested.put(b"large", reply(bytes(20_000)))
    assert tested.get(b"large", NOW) is None
    assert tested.get(b"99", NOW) is not None


def test_no_bytes_are_no_near_cache(vouches: Vouching) -> None:
    tested = near(vouches, near_max_bytes=0)
    tested.put(b"raw", reply(b""))
    assert tested.get(b"raw", NOW) is None


def test_for_ever_is_a_time_too(vouches: Vouching) -> None:
    tested = near(vouches, ttl_s=float("inf"), idle_ttl_s=float("inf"))
    tested.put(b"raw", reply(expires_at=float("inf")))
    assert tested.get(b"raw", NOW) is not None


def test_forgets_everything(vouches: Vouching) -> None:
    tested = near(vouches)
    tested.put(b"raw", reply())
    tested.clear()
    assert tested.get(b"raw", NOW) is None
    assert (tested.entries, tested.held_bytes) == (0, 0)
