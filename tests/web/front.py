"""The ingress's application over a scripted pool, without a cache shard."""

import random
from collections.abc import Sequence
from time import monotonic, time
from typing import Protocol

from serve.cache.client import Address
from serve.cache.service import AnswerCache
from serve.errors import CacheUnavailable
from serve.ports import Call, Clock, Inference
from serve.settings import AuthSettings, CacheSettings
from serve.web.app import create_app
from serve.web.identity import Directory
from serve.web.journal import Journal
from serve.web.meter import Meter
from serve.web.origin import Hosts, Origins
from serve.web.services import Services
from tests.asgi import Caller
from tests.web.scripted_pool import ScriptedPool, Step


async def nowhere() -> Address:
    raise CacheUnavailable("no shard in this test")


class Pool(Inference, Protocol):
    """A pool that counts."""

    calls: list[Call]
    closed: int


class Front:
    def __init__(
        self,
        script: "Sequence[Step] | Pool",
        deadline_s: float | None = None,
        auth: AuthSettings = AuthSettings(),  # noqa: B008 - frozen
        answers: AnswerCache | None = None,
        now: Clock = time,
        max_body_bytes: int = 1000,
    ) -> None:
        self.pool: Pool = ScriptedPool(script) if isinstance(script, Sequence) else script
        self.meter = Meter()
        self.app = create_app(
            Services(
                inference=self.pool,
                answers=answers
                or AnswerCache(CacheSettings(), [nowhere], clock=monotonic, now=time),
                directory=Directory(auth),
                origins=Origins(),
                hosts=Hosts(loopback=True),
                meter=self.meter,
                journal=Journal(self.meter, 1.0, random.Random(1)),
                now=now,
                max_body_bytes=max_body_bytes,
                deadline_s=deadline_s,
            )
        )

    async def ask(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        headers: Sequence[tuple[bytes, bytes]] = (),
    ) -> Caller:
        caller = Caller(method, path, body, headers)
        await caller.run(self.app)
        assert caller.is_whole
        assert self.pool.closed == len(self.pool.calls), "a stream was left open"
        assert self.meter.in_flight == 0
        return caller

    async def post(self, path: str, body: bytes, **headers: str) -> Caller:
        """`cache_control="no-cache"` is sent as `cache-control: no-cache`."""
        sent = [(k.replace("_", "-").encode(), v.encode()) for k, v in headers.items()]
        return await self.ask("POST", path, body, sent)
