"""The ingress's application over a scripted pool and a real cache shard."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from time import monotonic

from serve.cache.service import AnswerCache
from serve.ports import Tail
from serve.settings import CacheSettings
from tests.cache.world import DIGEST, FINGERPRINT, MODEL, OTHER, HandClock, at, report, shard, until
from tests.web.front import Front, Pool
from tests.web.scripted_pool import Step

SETTINGS = CacheSettings(lease_s=60, lookup_timeout_s=5, catalogue_poll_s=3600)
TAIL = Tail(DIGEST, DIGEST, FINGERPRINT)


class CachedFront(Front):
    """Its cache works by `now`, a clock moved by hand."""

    def __init__(self, script: Sequence[Step] | Pool, answers: AnswerCache, now: HandClock) -> None:
        super().__init__(script, answers=answers, now=now)
        self.answers = answers
        self.now = now


@asynccontextmanager
async def cached_front(
    script: Sequence[Step] | Pool, settings: CacheSettings = SETTINGS
) -> AsyncGenerator[CachedFront]:
    """Two models are known, `smollm2:135m` and `all-minilm`, by the same digest."""
    async with shard(settings) as (server, address):
        server.holdings.report(report(**{MODEL: DIGEST, OTHER: DIGEST}))
        now = HandClock(1_800_000_000.0)
        answers = AnswerCache(settings, [at(address)], clock=monotonic, now=now)
        async with answers:
            await until(lambda: answers.has_catalogue)
            yield CachedFront(script, answers, now)
