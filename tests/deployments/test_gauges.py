"""What is handed over to Ray, on its own metric objects; `heard` is what each was given."""

import warnings
from collections.abc import Mapping
from time import monotonic, time
from typing import Any

import pytest
from ray.util import metrics

from serve.cache.holdings import Holdings
from serve.cache.outcome import Miss
from serve.cache.protocol import Row
from serve.cache.service import AnswerCache
from serve.ports import Tail
from serve.settings import CacheSettings
from serve.web.meter import Meter
from tests.cache.world import CHATTED, MODEL, at, report, shard, until
from tests.web.cached import TAIL

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Ray Serve's own, of pydantic
    from deployments.engine_gauges import count_restart
    from deployments.gauges import Gauges
    from deployments.shard_gauges import ShardGauges

Heard = list[tuple[str, float, Mapping[str, str]]]


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> Heard:
    told: Heard = []
    inc = metrics.Counter.inc

    def listening(self: Any, value: float = 1.0, tags: dict[str, str] | None = None) -> None:
        inc(self, value, tags)  # refuses tags that were not declared
        told.append((self.info["name"], value, dict(tags or {})))

    monkeypatch.setattr(metrics.Counter, "inc", listening)
    return told


async def test_answers_that_were_not_kept_are_counted_by_reason(heard: Heard) -> None:
    settings = CacheSettings(lease_s=60, catalogue_poll_s=3600)
    async with shard(settings) as (server, address):
        server.holdings.report(report())
        answers = AnswerCache(settings, [at(address)], clock=monotonic, now=time)
        async with answers:
            await until(lambda: answers.has_catalogue)
            native = {"model": "smollm2:135m", "messages": [{"role": "user", "content": "Hello"}]}
            question = answers.question("/api/chat", native, MODEL, "t")
            assert not isinstance(question, Miss)
            miss = Miss("miss", "cold", question)
            for lines, tail in (
                (CHATTED, Tail("other", "other", "other")),
                (CHATTED[:1], TAIL),
                (CHATTED[:1], TAIL),
                (CHATTED, TAIL),
            ):
                answers.fill(miss, lines=lines, content_type="application/x-ndjson", tail=tail)
            gauges = Gauges(Meter(), answers)
            gauges.hand_over()
            gauges.hand_over()
    assert [one for one in heard if one[0] == "rayllama_answers_not_kept"] == [
        ("rayllama_answers_not_kept", 1, {"reason": "digest"}),
        ("rayllama_answers_not_kept", 2, {"reason": "incomplete"}),
    ]


async def test_what_was_saved_is_counted_by_model(heard: Heard) -> None:
    holdings = Holdings(CacheSettings(), monotonic)
    gauges = ShardGauges(0, lambda: holdings.stats(0, 0))
    counts = {"hit": {"near": 2}, "miss": {"joined": 1}}
    holdings.ledger.add_rows([Row(MODEL, tenant, counts, 7, 500_000_000) for tenant in "ab"])
    gauges.hand_over()
    gauges.hand_over()
    holdings.ledger.add_rows([Row(MODEL, "a", {}, 1, 0)])
    gauges.hand_over()
    tags = {"shard": "0", "model": "smollm2:135m"}
    assert heard == [
        ("rayllama_requests_joined", 2, tags),
        ("rayllama_tokens_saved", 14, tags),
        ("rayllama_gpu_seconds_saved", 1.0, tags),
        ("rayllama_tokens_saved", 1, tags),
    ]


def test_restarts_of_engines_are_counted_by_cause(heard: Heard) -> None:
    count_restart("", "wedged")
    count_restart("small", "died")
    assert heard == [
        ("rayllama_engine_restarts", 1, {"pool": "default", "cause": "wedged"}),
        ("rayllama_engine_restarts", 1, {"pool": "small", "cause": "died"}),
    ]
