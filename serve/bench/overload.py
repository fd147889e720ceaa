"""Ten times as much as a pool can do, from tenants of unequal greed.

The engine is the embedded one on the CPU. What it can do is measured first; then requests come at
ten times that rate, whether or not those before are answered.
"""

import asyncio
import hashlib
import json
import random
import secrets
import time
from collections import Counter
from collections.abc import Callable

from serve.bench.cluster import Cluster
from serve.bench.elastic import until_up
from serve.bench.figures import p99_ms, rounded
from serve.bench.streams import Stream
from serve.settings import Settings

_TENANTS = {"modest": 1, "usual": 2, "keen": 4, "greedy": 13}
_TIMES = 10
_SLOTS = 4
_QUEUE = 32
_CALIBRATION_S = 6.0
_HUNG_S = 60.0

Say = Callable[[str], None]
Figures = dict[str, float | str | None]


def overload(*, seconds: int, say: Say) -> Figures:
    """The figures by name."""
    keys = [
        {"sha256": hashlib.sha256(name.encode()).hexdigest(), "tenant": name} for name in _TENANTS
    ]
    settings = Settings.model_validate(
        {
            "inference": {
                "engine": "embedded",
                "num_gpus": 0,
                "num_cpus": 0,
                "slots": _SLOTS,
                "max_queue": _QUEUE,
                "context_length": 2048,
                "models": ["smollm2:135m"],
            },
            "cache": {"policy": "off"},
            "ingress": {"replicas": 1, "num_cpus": 0},
            "admin": {"port": 0},
            "auth": {"keys": keys},
        }
    )
    with Cluster(settings, 0) as cluster:
        return asyncio.run(_measure(cluster, seconds, say))


async def _measure(cluster: Cluster, seconds: int, say: Say) -> Figures:
    await until_up(cluster)
    await asyncio.to_thread(cluster.until_replicas, 1, 1, 120)
    done: list[Asked] = []
    await asyncio.gather(*(_closed(cluster.url, done) for _ in range(_SLOTS)))
    rate = len([each for each in done if each.is_answered]) / _CALIBRATION_S
    say(f"it does {rate:.1f} answers a second; now {_TIMES * rate:.0f} a second for {seconds} s")
    asked = await _flood(cluster.url, _TIMES * rate, seconds)
    counts = Counter(each.tenant for each in asked if each.is_answered)
    answered = [counts[name] for name in _TENANTS]
    refusals = [each.took_s for each in asked if each.status == 503]
    return rounded(
        {
            "capacity_per_s": rate,
            "asked": len(asked),
            "answered": sum(answered),
            "refused": len(refusals),
            "refused_p99_ms": p99_ms(refusals),
            "hung": sum(each.status == 0 for each in asked),
            "fairness": jain(answered),
        }
    )


def jain(shares: list[int]) -> float:
    """Jain's index: 1 if all have the same, 1/n if one has all."""
    return sum(shares) ** 2 / (len(shares) * sum(share**2 for share in shares) or 1)


class Asked:
    """One question of one tenant. `status`: 0 if it has not ended in time."""

    def __init__(self, url: str, tenant: str) -> None:
        self.tenant = tenant
        options = {"num_predict": 8, "temperature": 1}
        body = {"model": "smollm2:135m", "prompt": secrets.token_hex(4), "options": options}
        headers = {"x-api-key": tenant}
        self._stream = Stream(url, headers, json.dumps(body).encode())
        self.took_s = 0.0

    @property
    def status(self) -> int:
        """Of the answer, if all of it has come."""
        return self._stream.status if self._stream.is_done else 0

    @property
    def is_answered(self) -> bool:
        """Whole and good."""
        return self.status == 200 and b'"done":true' in self._stream.body

    async def run(self) -> None:
        """Ask, and hear."""
        began = time.perf_counter()
        try:
            async with asyncio.timeout(_HUNG_S):
                await self._stream.connect()
                await self._stream.run()
        except (OSError, TimeoutError):
            return
        finally:
            self.took_s = time.perf_counter() - began
            await self._stream.close()


async def _closed(url: str, done: list[Asked]) -> None:
    """One question after the other, for as long as the calibration takes."""
    until = time.monotonic() + _CALIBRATION_S
    while time.monotonic() < until:
        asked = Asked(url, "modest")
        await asked.run()
        done.append(asked)


async def _flood(url: str, rate: float, seconds: int) -> list[Asked]:
    """So many a second, at random times."""
    chance = random.Random(1)  # noqa: S311
    asked: list[Asked] = []
    async with asyncio.TaskGroup() as group:
        end = time.monotonic() + seconds
        due = time.monotonic()
        while due < end:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            (tenant,) = chance.choices(list(_TENANTS), list(_TENANTS.values()))
            asked.append(Asked(url, tenant))
            group.create_task(asked[-1].run())
            due += chance.expovariate(rate)
    return asked
