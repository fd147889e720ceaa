"""The inference routes: from the cache if it knows the answer, else from the pool.

What the same request asks for at the same time, from any ingress, is asked of the pool once: such a
request has a seat in a flight (`serve.cache.joining`), and hears there what the pool says.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from starlette.types import Receive, Scope, Send

from serve.cache.outcome import Listening
from serve.cache.service import Hit, Miss
from serve.cache.worth import of_vectors, told, worth_of
from serve.errors import EngineDied, EngineRefused, NotCached, RayllamaError
from serve.ports import Frame, Head, Tail
from serve.web.batch import BatchRelay, for_missing
from serve.web.cache_status import Forwarded
from serve.web.dialects import NDJSON, Asked
from serve.web.exchange import LARGE_BYTES, Exchange
from serve.web.meter import Verdict
from serve.web.relay import Answer, Frames, Keep, Relay, call_for
from serve.web.reply import CACHE_HEADER, Reply
from serve.web.services import Services
from serve.web.unload import is_unload, unload

SHARED_HIT = Verdict("hit", "shared")
STALE_HIT = Verdict("hit", "stale")
_IN_NEED = frozenset({500, 502, 503, 504})
"""The statuses of an error that a stale answer may stand for (RFC 5861 §4)."""
CANT_THINK = "does not support thinking"
_NOT_CACHED = (
    "no answer in memory ({}), and Cache-Control: only-if-cached forbids asking for a new one"
)


class Infer:
    """One inference route, as an ASGI application behind the gateway."""

    def __init__(self, services: Services, ask: Callable[[Exchange], Asked]) -> None:
        self._services = services
        self._ask = ask

    async def __call__(self, scope: Scope, _receive: Receive, _send: Send) -> None:
        """Answer it."""
        exchange: Exchange = scope["exchange"]
        if len(exchange.body) < LARGE_BYTES:
            asked = self._ask(exchange)
        else:
            asked = await asyncio.to_thread(self._ask, exchange)
        exchange.model = asked.model or asked.spelled
        exchange.error_headers = asked.error_headers
        fleet = self._services.fleet
        if fleet is not None and fleet.members() and is_unload(asked.route, asked.native):
            await unload(self._services, exchange, asked)
            return
        send = exchange.send
        try:
            await self._find_or_ask(exchange, asked)
        except EngineRefused as refused:
            may_ask_again = str(refused).endswith(CANT_THINK) and not exchange.has_begun
            if asked.unthinking is None or not may_ask_again:
                raise
            exchange.send = send
            await self._find_or_ask(exchange, asked.unthinking)

    async def _find_or_ask(self, exchange: Exchange, asked: Asked) -> None:
        found, send = await self._look_up(exchange, asked), exchange.send
        try:
            await self._answer(exchange, asked, found)
        except EngineDied:
            # All listeners of a flight that have sent nothing ask again, once, and so have one more
            # generation together.
            if isinstance(found, Hit) or found.seat is None or exchange.has_begun:
                raise
            exchange.send = send
            await self._answer(exchange, asked, await self._look_up(exchange, asked))

    async def _look_up(self, exchange: Exchange, asked: Asked) -> Hit | Miss:
        return await self._services.answers.lookup(
            asked.route,
            asked.meaning,
            model=asked.model,
            tenant=exchange.identity.tenant,
            cache_control=exchange.headers.get(b"cache-control", b""),
            pragma=exchange.headers.get(b"pragma", b""),
        )

    async def _answer(self, exchange: Exchange, asked: Asked, found: Hit | Miss) -> None:
        if isinstance(found, Hit):
            await self._hit(exchange, asked, found, SHARED_HIT)
            return
        stale, send = found.stale, exchange.send
        if stale is not None and stale.meanwhile:
            if found.seat is not None:
                call = call_for(exchange, asked, None)
                found.seat.hear_out(lambda: self._services.inference.stream(call))
            await self._hit(exchange, asked, stale.hit, STALE_HIT)
            return
        try:
            await self._ask_pool(exchange, asked, found)
        except RayllamaError as error:
            may_stand = error.status in _IN_NEED and not exchange.has_begun
            if stale is None or not stale.if_error or not may_stand:
                raise
            exchange.send = send
            await self._hit(exchange, asked, stale.hit, STALE_HIT)

    async def _hit(self, exchange: Exchange, asked: Asked, hit: Hit, verdict: Verdict) -> None:
        """Answer from memory."""
        exchange.verdict = verdict
        exchange.saves(worth_of(hit.entry))
        reply = self._render(exchange, asked, hit)
        exchange.began(reply.status)
        age_and_status = self._services.remembered(
            hit.entry.stored_at, hit.question.key, verdict.detail.encode()
        )
        await reply.send(exchange.send, more=[(CACHE_HEADER, verdict.header()), *age_and_status])

    async def _ask_pool(self, exchange: Exchange, asked: Asked, found: Miss) -> None:
        """Answer from the pool, or hear what it says to another."""
        exchange.verdict = Verdict(found.kind, found.reason)
        exchange.send = forwarded = Forwarded(exchange.send, found)
        if found.seat is None:
            await self._miss(exchange, asked, found, forwarded)
            return
        try:
            await self._listen(exchange, asked, found, found.seat, forwarded)
        finally:
            found.seat.leave()

    async def _listen(
        self,
        exchange: Exchange,
        asked: Asked,
        miss: Miss,
        seat: Listening,
        forwarded: Forwarded,
    ) -> None:
        services = self._services
        is_joined, last = miss.reason == "joined", b""
        has_other = miss.stale is not None and miss.stale.if_error

        async def frames() -> AsyncGenerator[Frame, None]:
            nonlocal last
            # No deadline: it is this caller's own, and others may hear the same generation.
            call = call_for(exchange, asked, None)
            heard = seat.frames(lambda: services.inference.stream(call))
            async with aclosing(heard):
                async for frame in heard:
                    if is_joined and isinstance(frame, bytes):
                        last = frame
                    if isinstance(frame, Tail):
                        exchange.saves(told(last.splitlines()[-1:]))
                        forwarded.is_stored = seat.hit is not None
                        self._remember(exchange, asked, seat.hit)
                    elif has_other and isinstance(frame, Head) and frame.status in _IN_NEED:
                        raise EngineRefused(frame.status, "refused")  # never told: see `_answer`
                    yield frame

        relay = Relay(exchange, asked, 0, _keep_nothing)
        await relay.run(frames(), services.deadline_s)

    def _remember(self, exchange: Exchange, asked: Asked, hit: Hit | None) -> None:
        """Have the reply ready for these bytes, unless another listener has had them rendered."""
        if hit and self._services.answers.lookup_near(exchange.raw_key) is None:
            self._render(exchange, asked, hit)

    async def _miss(
        self, exchange: Exchange, asked: Asked, miss: Miss, forwarded: Forwarded
    ) -> None:
        services = self._services
        if miss.is_final:
            raise NotCached(_NOT_CACHED.format(miss.reason))

        def keep(answer: Answer) -> None:
            if answer.tail is None:
                return
            hit = services.answers.fill(
                miss,
                lines=_lines(answer),
                content_type=answer.content_type,
                tail=answer.tail,
            )
            if hit is not None:
                forwarded.is_stored = True
                self._render(exchange, asked, hit)

        call = call_for(exchange, asked, services.deadline_s)
        relay = Relay(exchange, asked, services.answers.keep_bytes(miss), keep)
        if miss.batch is not None:
            relay = self._completing(exchange, asked, miss, keep, forwarded)
            call = call_for(exchange, for_missing(asked, miss.batch), services.deadline_s)
        await relay.run(services.inference.stream(call), services.deadline_s)

    def _completing(
        self, exchange: Exchange, asked: Asked, miss: Miss, keep: Keep, forwarded: Forwarded
    ) -> Relay:
        """A relay that answers a batch of which the pool is asked for a part."""
        services = self._services

        async def complete(body: bytes, tail: Tail | None) -> Reply | None:
            made = await services.answers.complete(miss, body=body, tail=tail)
            if made is None:
                return None
            hit, forwarded.is_stored = made
            if miss.batch is not None:
                exchange.saves(of_vectors(miss.batch.known.values()))
            return self._render(exchange, asked, hit)

        def ask_for_all() -> Frames:
            return services.inference.stream(call_for(exchange, asked, services.deadline_s))

        relay = BatchRelay(exchange, asked, services.answers.keep_bytes(miss), keep)
        is_all = miss.batch is not None and miss.batch.is_as_asked
        relay.completing(complete, None if is_all else ask_for_all, services.deadline_s)
        return relay

    def _render(self, exchange: Exchange, asked: Asked, hit: Hit) -> Reply:
        """The stored answer in the caller's form, remembered under the bytes that asked for it."""
        entry, renderer = hit.entry, asked.renderer()
        is_lines = entry.content_type.startswith(NDJSON.decode())
        if is_lines and asked.is_streamed:
            body = renderer.chunk(b"".join(line + b"\n" for line in entry.lines))
            reply = Reply(
                200, renderer.stream_type, body, headers=renderer.stream_headers, length=False
            )
        elif is_lines:
            reply = Reply(200, renderer.whole_type, renderer.whole(entry.lines))
        else:
            reply = Reply(200, renderer.whole_type, renderer.single(entry.lines[0]))
        self._services.answers.remember(
            exchange.raw_key, hit, status=200, headers=reply.headers, body=reply.body
        )
        return reply


def _keep_nothing(_answer: Answer) -> None:
    """What a flight brings is kept by who generates it."""


def _lines(answer: Answer) -> list[bytes]:
    whole = b"".join(answer.parts)
    return whole.splitlines() if answer.content_type.startswith(NDJSON.decode()) else [whole]
