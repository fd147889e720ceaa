"""The promise: when a tag has changed, no answer of the old digest is served after the lease.

One ingress hears of each change as fast as the network carries it; the other's connection stalls at
the worst moments, with renewals and news in its buffers, and goes on later. The tag changes all the
while, sometimes back to what it was, and both ingresses look up, compute and store without a pause.
"""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from itertools import count
from time import monotonic

from serve.cache.client import Address
from serve.cache.service import AnswerCache, Hit, Miss
from serve.cache.shard import ShardServer
from serve.ports import Tail
from serve.settings import CacheSettings
from tests.cache.faults import StallingWire
from tests.cache.world import FINGERPRINT, MODEL, at, report, shard, until

LEASE_S = 0.15
CHANGES = 24
SETTINGS = CacheSettings(lease_s=LEASE_S, lookup_timeout_s=0.05, catalogue_poll_s=3600)
RAW = b"r" * 16


class Pool:
    """The engines behind one tag, and when the shard took in that it stood for what."""

    def __init__(self, server: ShardServer) -> None:
        self._server = server
        self.digest = ""
        self.history: list[tuple[str, float]] = []

    def change(self, digest: str) -> None:
        self.digest = digest
        self._server.holdings.report(report(**{MODEL: digest}))
        self._server.publish()
        self.history.append((digest, monotonic()))

    def was_current(self, digest: str, since: float) -> bool:
        """Has the tag stood for this digest at any time since then?"""
        ends = [began for _, began in self.history[1:]] + [float("inf")]
        return any(
            digest == known and end >= since
            for (known, _), end in zip(self.history, ends, strict=True)
        )

    async def compute(self) -> tuple[tuple[bytes, ...], Tail]:
        """An answer that says which weights it came from; the tag may change meanwhile."""
        before = self.digest
        await asyncio.sleep(0.001)
        line = {"model": "m", "response": before, "done": True, "done_reason": "stop"}
        return (json.dumps(line).encode(),), Tail(before, self.digest, FINGERPRINT)


class Asking:
    """One client of one ingress: asks the same thing again and again, and checks each answer."""

    def __init__(self, answers: AnswerCache, pool: Pool) -> None:
        self._answers = answers
        self._pool = pool
        self._prompts = count()
        self.served = {"near": 0, "shared": 0, "computed": 0}
        self.stale: list[tuple[str, str]] = []

    async def run(self) -> None:
        while True:
            await self._ask(prompt="always the same", raw_key=RAW)
            await self._ask(prompt=f"one of five: {next(self._prompts) % 5}", raw_key=None)
            await asyncio.sleep(0)

    async def _ask(self, prompt: str, raw_key: bytes | None) -> None:
        asked_at = monotonic()
        near = self._answers.lookup_near(raw_key) if raw_key else None
        if near is not None:
            self._check("near", near.body.decode(), asked_at)
            return
        native = {"model": "m", "prompt": prompt, "options": {"seed": 1}}
        found = await self._answers.lookup("/api/generate", native, model=MODEL, tenant="t")
        if isinstance(found, Hit):
            self._check("shared", json.loads(found.entry.lines[0])["response"], asked_at)
            hit: Hit | None = found
        else:
            hit = await self._compute(found)
        if hit is not None and raw_key is not None:
            body = json.loads(hit.entry.lines[0])["response"].encode()
            self._answers.remember(raw_key, hit, status=200, headers=[], body=body)

    async def _compute(self, miss: Miss) -> Hit | None:
        self.served["computed"] += 1
        if miss.seat is not None:
            miss.seat.leave()  # each computes for itself here: more answers that may be stale
        lines, tail = await self._pool.compute()
        return self._answers.fill(miss, lines=lines, content_type="application/x-ndjson", tail=tail)

    def _check(self, tier: str, digest: str, asked_at: float) -> None:
        self.served[tier] += 1
        if not self._pool.was_current(digest, asked_at - LEASE_S):
            self.stale.append((tier, digest))


@asynccontextmanager
async def asking(address: Address, pool: Pool) -> AsyncGenerator[Asking]:
    answers = AnswerCache(SETTINGS, [at(address)], clock=monotonic, now=monotonic)
    async with answers:
        await until(lambda: answers.catalogue.is_live(monotonic()))
        client = Asking(answers, pool)
        task = asyncio.get_running_loop().create_task(client.run())
        try:
            yield client
        finally:
            task.cancel()
            await asyncio.wait([task])
        if not task.cancelled():
            await task


async def test_no_answer_of_an_old_digest_outlives_the_lease() -> None:
    async with shard(SETTINGS) as (server, address):
        pool = Pool(server)
        pool.change("d0")
        wire = StallingWire(address)
        async with (
            wire.stretched() as stretched,
            asking(address, pool) as prompt,
            asking(stretched, pool) as stalled,
        ):
            for number in range(1, CHANGES + 1):
                if number % 3 == 0:
                    wire.stall()
                # Back to an earlier digest now and then: its answers are right again.
                pool.change(f"d{number if number % 4 else number - 2}")
                await asyncio.sleep(LEASE_S * (0.3 if number % 2 else 1.5))
                wire.flow()
        for client in (prompt, stalled):
            assert client.stale == []
            assert min(client.served.values()) > 0, client.served
        assert len(pool.history) == CHANGES + 1
