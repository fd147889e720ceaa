"""A batch of which memory knows a part: the pool is asked for the rest, and the whole is answered.

The two parts must be made from the same content. If the model changed in between, or the engine
answers in a form that can't be put together, the pool is asked again, for all of it.
"""

from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace

from serve.cache import vectors
from serve.cache.outcome import Batch
from serve.ports import Head, Tail
from serve.web.dialects import Asked
from serve.web.relay import Answer, Frames, Relay, whole_body
from serve.web.reply import Reply
from serve.wire import gojson

Complete = Callable[[bytes, Tail | None], Awaitable[Reply | None]]
"""The whole reply, from the engine's answer for the rest; None if it can't be made."""


def for_missing(asked: Asked, batch: Batch) -> Asked:
    """The same request for the inputs that memory doesn't know."""
    if batch.is_as_asked:
        return asked
    native = vectors.asking_for(asked.native, batch.missing)
    return replace(asked, native=native, body=gojson.dumps(native))


class BatchRelay(Relay):
    """A call for the missing inputs, and another for all of them if need be."""

    _complete: Complete | None = None
    _ask_for_all: Callable[[], Frames] | None = None
    _deadline_s: float | None = None

    def completing(
        self,
        complete: Complete,
        ask_for_all: Callable[[], Frames] | None,
        deadline_s: float | None,
    ) -> None:
        """Put the whole answer together with `complete`.

        Without `ask_for_all` the pool is asked for all from the start, and what it says will do.
        """
        self._complete = complete
        self._ask_for_all = ask_for_all
        self._deadline_s = deadline_s

    async def _copy(self, head: Head, first: bytes, frames: Frames) -> None:
        """Complete the answer. A refusal is the answer: one input that fails fails the batch."""
        complete, self._complete = self._complete, None
        if complete is None or head.status != 200:
            await super()._copy(head, first, frames)
            return
        answer = Answer(head.content_type, 0)
        body = await whole_body(first, frames, answer)
        reply = await complete(body, answer.tail)
        if reply is None and self._ask_for_all is None:
            reply = Reply(200, self._renderer.whole_type, self._renderer.single(body))
        if reply is not None:
            self._exchange.began(reply.status)
            await reply.send(self._exchange.send, more=[self._verdict()])
        elif self._ask_for_all is not None:
            async with aclosing(self._ask_for_all()) as anew:
                await self._pass_on(anew, self._deadline_s)
