"""A miss: ask the inference pool, and pass on what it says as it says it.

The status goes out when the first frame with a body is here, never before and never twice. What
fails after that becomes the last frame of the client's dialect. The client's leaving is watched
here, whatever Serve does about it, and closes the engine's stream.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing

from serve.errors import (
    RUNNER_DIED,
    DeadlineExceeded,
    EngineDied,
    EngineRefused,
    RayllamaError,
)
from serve.ports import Call, Failed, Frame, Head, Tail
from serve.web.body import ClientGone, until_gone
from serve.web.dialects import JSON, NDJSON, Asked
from serve.web.exchange import Exchange
from serve.web.placing import affinity_of, num_ctx_of
from serve.web.reply import CACHE_HEADER, Header, Reply, end, part, start
from serve.wire import frames as wire_frames

Frames = AsyncGenerator[Frame, None]


class Answer:
    """What an engine said, whole: kept only up to a bound, for the cache and for whole replies."""

    __slots__ = ("_keep", "_limit", "content_type", "parts", "size", "tail")

    def __init__(self, content_type: str, limit: int) -> None:
        self.content_type = content_type
        self.parts: list[bytes] = []
        self.size = 0
        self.tail: Tail | None = None
        self._limit = limit
        self._keep = True

    def add(self, data: bytes) -> None:
        """Keep some more, or give up what was kept once it is over the bound."""
        self.size += len(data)
        if self._keep and self.size > self._limit:
            self._keep = False
            self.parts.clear()
        if self._keep:
            self.parts.append(data)

    @property
    def is_storable(self) -> bool:
        """Whether it ended well and fits."""
        return self._keep and self.tail is not None


Keep = Callable[[Answer], None]
"""What to do with an answer that came whole."""


class Relay:
    """One call to the pool on behalf of one request."""

    def __init__(self, exchange: Exchange, asked: Asked, keep_bytes: int, keep: Keep) -> None:
        self._exchange = exchange
        self._asked = asked
        self._renderer = asked.renderer()
        self._keep_bytes = keep_bytes
        self._keep = keep

    async def run(self, frames: Frames, deadline_s: float | None) -> None:
        """Send the answer. One that came whole is given to `keep` before its end is sent.

        So whoever has seen the end and asks again is answered from memory.
        Raises the errors of `serve.errors` only while nothing has been sent, and `ClientGone`.
        """
        try:
            async with asyncio.TaskGroup() as group:
                watch = group.create_task(until_gone(self._exchange.receive))
                async with aclosing(frames):
                    await self._pass_on(frames, deadline_s)
                watch.cancel()
        except BaseExceptionGroup as group:
            raise _main(group) from None

    async def _pass_on(self, frames: Frames, deadline_s: float | None) -> None:
        head, first = await _opening(frames, deadline_s)
        if head.status == 200 and head.content_type.startswith(NDJSON.decode()):
            if self._asked.is_streamed:
                await self._stream(head, first, frames)
            else:
                await self._put_together(head, first, frames)
        else:
            await self._copy(head, first, frames)

    async def _stream(self, head: Head, first: bytes, frames: Frames) -> None:
        """Line by line, each as it comes.

        Ollama may just stop, as when a model repeats itself. Its own clients know that; those of
        other dialects wait for an end.
        """
        exchange, renderer = self._exchange, self._renderer
        answer = Answer(head.content_type, self._keep_bytes)
        exchange.began(head.status)
        await start(
            exchange.send,
            head.status,
            [
                (b"content-type", renderer.stream_type),
                *renderer.stream_headers,
                *self._about(head),
            ],
        )
        message: str | None = None
        last = b""
        try:
            async for data in _bodies(first, frames, answer):
                good, message = _cut_error(data)
                if good:
                    answer.add(good)
                    last = good
                    rendered = renderer.chunk(good)
                    if rendered:
                        await part(exchange.send, rendered)
                if message is not None:
                    break
        except RayllamaError as error:
            message = str(error)
        if message is None and self._asked.is_translated and not wire_frames.is_over(last):
            message = RUNNER_DIED
        if message is None:
            self._whole(answer)
        await end(exchange.send, b"" if message is None else renderer.broken(message))

    async def _put_together(self, head: Head, first: bytes, frames: Frames) -> None:
        """All lines into one body. An error among them is the whole answer, with a status."""
        exchange, renderer = self._exchange, self._renderer
        answer = Answer(head.content_type, self._keep_bytes)
        good, message = _cut_error(await whole_body(first, frames, answer))
        if message is not None:
            raise EngineRefused(500, message)
        if not good:
            raise EngineDied
        answer.add(good)
        body = renderer.whole(good.splitlines())
        self._whole(answer)
        exchange.began(200)
        reply = Reply(200, renderer.whole_type, body, headers=self._about(head))
        await reply.send(exchange.send)

    async def _copy(self, head: Head, first: bytes, frames: Frames) -> None:
        """One JSON object: an embedding, a load, or the engine's refusal."""
        exchange, renderer = self._exchange, self._renderer
        answer = Answer(head.content_type, self._keep_bytes)
        body = await whole_body(first, frames, answer)
        if head.status != 200 and exchange.route.startswith("/v1/"):
            raise EngineRefused(head.status, wire_frames.error_text(body))
        content_type = head.content_type.encode()
        headers = self._about(head)
        if not self._asked.is_streamed:
            content_type = renderer.whole_type if head.status == 200 else JSON
        if head.status == 200:
            answer.add(body)
            self._whole(answer)
            body = renderer.single(body)
            if self._asked.is_streamed and self._asked.is_translated:
                content_type = renderer.stream_type
                headers += renderer.stream_headers
        if head.status == 503:
            headers.append((b"retry-after", b"1"))
        exchange.began(head.status)
        reply = Reply(head.status, content_type, body, headers=headers)
        await reply.send(exchange.send)

    def _whole(self, answer: Answer) -> None:
        if answer.is_storable:
            self._keep(answer)

    def _verdict(self) -> tuple[bytes, bytes]:
        return CACHE_HEADER, self._exchange.verdict.header()

    def _about(self, head: Head) -> list[Header]:
        return [self._verdict(), *_placing(head)]


def _placing(head: Head) -> list[Header]:
    """What whoever placed the call told of it: the line it stood in, and how near its model was."""
    headers: list[Header] = []
    if head.state:
        headers.append((b"x-rayllama-model-state", head.state.encode()))
        headers.append((b"x-rayllama-queue-position", b"%d" % head.position))
    if head.replica:
        headers.append((b"x-rayllama-replica", head.replica.encode()))
    return headers


def _main(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Of what happened at once: that the client left, else our own error, else all of it."""
    for kind in (ClientGone, RayllamaError):
        found = group.subgroup(kind)
        if found is not None and len(found.exceptions) > 0:
            return found.exceptions[0]
    return group


async def _opening(frames: Frames, deadline_s: float | None) -> tuple[Head, bytes]:
    """The head and the first bytes, or the error that came instead."""
    try:
        async with asyncio.timeout(deadline_s):
            head = await anext(frames, None)
            if not isinstance(head, Head):
                raise EngineDied
            first = await anext(frames, None)
            if isinstance(first, Failed):
                raise EngineDied(first.message)
    except TimeoutError:
        raise DeadlineExceeded(f"no answer within the deadline of {deadline_s:g} seconds") from None
    return head, first if isinstance(first, bytes) else b""


async def _bodies(first: bytes, frames: Frames, answer: Answer) -> AsyncIterator[bytes]:
    """The bytes up to the end, whose tail is kept. Raises `EngineDied` if it broke."""
    yield first
    async for frame in frames:
        if isinstance(frame, bytes):
            yield frame
        elif isinstance(frame, Tail):
            answer.tail = frame
        elif isinstance(frame, Failed):
            raise EngineDied(frame.message)


async def whole_body(first: bytes, frames: Frames, answer: Answer) -> bytes:
    """All the bytes; `answer` gets the tail. Raises `EngineDied` if it broke."""
    return b"".join([data async for data in _bodies(first, frames, answer)])


def call_for(exchange: Exchange, asked: Asked, deadline_s: float | None) -> Call:
    """The request as the pool gets it."""
    return Call(
        method="POST",
        path=asked.route,
        body=asked.body,
        request_id=exchange.request_id,
        model=asked.model,
        deadline_s=deadline_s,
        tenant=exchange.identity.tenant,
        num_ctx=num_ctx_of(asked.native),
        affinity=affinity_of(exchange.headers, asked.native),
    )


def _cut_error(data: bytes) -> tuple[bytes, str | None]:
    """Whole lines without the error line that ends them, and what it says."""
    line = wire_frames.last_line(data)
    if not wire_frames.is_error(line):
        return data, None
    return data[: -len(line)], wire_frames.error_text(line)
