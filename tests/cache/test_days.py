"""Answers whose prompts may hold the date, around midnight by a clock moved by hand."""

from datetime import UTC, datetime
from typing import Any

import pytest

from serve.cache.outcome import Question
from serve.cache.service import Hit, Miss
from serve.cache.shard import ShardServer
from serve.ports import Model, Report
from tests.cache.test_service import NATIVE, RAW, Cached, cached, pair, server, told
from tests.cache.world import DIGEST, FINGERPRINT, MODEL, until

__all__ = ["cached", "pair", "server"]

EVE = datetime(2026, 11, 23, 23, 0, tzinfo=UTC).timestamp()
HOUR_S = 3600.0


async def listed(
    cached: Cached, server: ShardServer, *, is_dated: bool = True, **offsets_s: int
) -> None:
    """The replicas report so, and the ingress has heard of it."""
    models = {MODEL: Model(DIGEST, b"{}", is_dated)}
    for replica, offset_s in (offsets_s or {"r1": 0}).items():
        server.holdings.report(Report(replica, "0.33.0", FINGERPRINT, models, offset_s))
    server.publish()
    await until(lambda: cached.answers.catalogue.view == server.holdings.registry.view)
    cached.now.seconds = EVE


async def test_an_answer_with_a_date_ends_with_the_day(cached: Cached, server: ShardServer) -> None:
    await listed(cached, server)
    assert cached.fill(await cached.lookup())
    hit = await cached.lookup()
    cached.remember(hit)
    near = cached.answers.lookup_near(RAW)
    assert near is not None
    assert near.expires_at == pytest.approx(cached.answers._clock() + HOUR_S, abs=60)
    cached.now.advance(HOUR_S + 1)
    assert told(await cached.lookup()) == ("miss", "cold")
    cached.remember(hit, b"s" * 16)
    assert cached.answers.lookup_near(b"s" * 16) is None


async def test_an_answer_without_one_does_not(cached: Cached, server: ShardServer) -> None:
    await listed(cached, server, is_dated=False)
    assert cached.fill(await cached.lookup())
    cached.now.advance(HOUR_S + 1)
    hit = await cached.lookup()
    assert isinstance(hit, Hit)
    assert hit.question.day == ""


async def test_a_generation_over_midnight_is_not_kept(cached: Cached, server: ShardServer) -> None:
    await listed(cached, server)
    miss = await cached.lookup()
    cached.now.advance(HOUR_S + 1)
    assert cached.fill(miss) is None
    assert cached.answers.dropped["midnight"] == 1


async def test_the_day_is_that_of_the_engines_zone(cached: Cached, server: ShardServer) -> None:
    await listed(cached, server, r1=7200)
    assert question(await cached.lookup()).day == "2026-11-24"
    await listed(cached, server, r1=0)
    assert question(await cached.lookup()).day == "2026-11-23"


async def test_engines_in_several_zones_keep_nothing_with_a_date(
    cached: Cached, server: ShardServer
) -> None:
    await listed(cached, server, r1=0, r2=3600)
    assert told(await cached.lookup()) == ("miss", "mixed-zones")
    await listed(cached, server, is_dated=False, r1=0, r2=3600)
    assert told(await cached.lookup()) == ("miss", "cold")


async def test_a_changed_zone_empties_the_near_cache(cached: Cached, server: ShardServer) -> None:
    """Its replies were told when the day ends by the other one."""
    await listed(cached, server)
    cached.remember(cached.fill(await cached.lookup()))
    assert cached.answers.lookup_near(RAW)
    await listed(cached, server, r1=3600)
    assert cached.answers.lookup_near(RAW) is None


async def test_who_knows_that_there_is_no_date_speaks_for_all(
    cached: Cached, server: ShardServer
) -> None:
    await listed(cached, server, is_dated=False, r1=0)
    await listed(cached, server, is_dated=True, r2=0)
    assert question(await cached.lookup()).day == ""


@pytest.mark.parametrize(
    ("route", "native", "day"),
    [
        ("/api/generate", {"template": "{{ currentDate }}"}, "2026-11-23"),
        ("/api/generate", {"template": "{{ .Prompt }}"}, ""),
        ("/api/generate", {"template": 7}, ""),
        ("/api/chat", {}, ""),
    ],
)
async def test_a_request_may_bring_its_own_template(
    cached: Cached, server: ShardServer, route: str, native: dict[str, Any], day: str
) -> None:
    await listed(cached, server, is_dated=False)
    assert cached.answers._days.of(route, native, MODEL) == day


async def test_an_embedding_has_no_date(cached: Cached, server: ShardServer) -> None:
    await listed(cached, server)
    assert cached.answers._days.of("/api/embed", {"input": "x"}, MODEL) == ""
    assert cached.answers._days.of("/api/generate", NATIVE, "unlisted") == "2026-11-23"


def question(found: Hit | Miss) -> Question:
    assert found.question is not None
    return found.question
