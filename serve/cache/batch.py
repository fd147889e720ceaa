"""Embedding batches: which of their inputs memory knows, and each input kept by itself.

An input's entry has the key of the request that asks for that input alone, everything else being
the same: `dimensions`, `truncate` and `options` are in it as in any key.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, ParamSpec, TypeVar

from msgspec import structs

from serve.cache import vectors
from serve.cache.answer import JSON_TYPE, entry_of, vector_of
from serve.cache.entry import VECTOR_TYPE, Entry
from serve.cache.key import request_key
from serve.cache.outcome import Batch, Dropped, Hit, Miss, Question
from serve.cache.policy import EMBED
from serve.cache.vectors import Vector
from serve.cache.worth import of_vectors
from serve.errors import CacheUnavailable
from serve.ports import Clock

P = ParamSpec("P")
R = TypeVar("R")

Made = Mapping[str, Vector]
"""Vectors by their inputs."""

_AT_ONCE = 64
"""So many look-ups at a time take no longer than one; more get more time, in proportion. And so
many vectors are taken apart in between other work; of more, each is always kept by itself."""

_LARGE_BYTES = 128 << 10
"""Of more numbers than that, reading and printing is too long a pause for all other requests."""


class Batches:
    """Looks inputs up with `get` and keeps them with `put`, each by its own key."""

    def __init__(
        self,
        get: Callable[[bytes, float], Awaitable[bytes | None]],
        put: Callable[[Question, Entry], Dropped | None],
        *,
        timeout_s: float,
        now: Clock,
        is_stale: Callable[[float], bool],
    ) -> None:
        self._get = get
        self._put = put
        self._timeout_s = timeout_s
        self._now = now
        self._is_stale = is_stale

    async def find(self, question: Question) -> Hit | Miss | None:
        """The answer to a batch if all inputs are known, else a miss that says which are.

        None for what isn't a batch, and for one that must be asked for as it stands. All inputs
        are asked for at once; what isn't there in time is not known.
        """
        texts = inputs(question)
        if texts is None or len(texts) == 1:
            return None
        distinct = list(dict.fromkeys(texts))
        timeout_s = self._timeout_s * (1 + len(distinct) // _AT_ONCE)
        found = await asyncio.gather(
            *(self._ask(alone(question, text), timeout_s) for text in distinct)
        )
        known = {text: item for text, item in zip(distinct, found, strict=True) if item is not None}
        since = min((stored_at for _, stored_at in known.values()), default=float("inf"))
        batch = Batch(tuple(texts), {text: vector for text, (vector, _) in known.items()}, since)
        if not batch.missing:
            return Hit(await _joined(question, batch, {}, since), question)
        if batch.is_as_asked and len(texts) <= _AT_ONCE:
            return None
        return Miss("miss", "partial" if known else "cold", question, batch=batch)

    async def complete(self, miss: Miss, body: bytes) -> tuple[Entry, Made] | None:
        """The whole answer, with the engine's `body` for the missing inputs; and their vectors.

        None if `body` can't be taken apart.
        """
        question, batch = miss.question, miss.batch
        if question is None or batch is None:
            return None
        split = await _off_loop(len(body), vectors.split, body, batch.missing)
        if split is None:
            return None
        made = dict(zip(batch.missing, split, strict=True))
        return await _joined(question, batch, made, self._now()), made

    def keep(self, question: Question, made: Made) -> Dropped | None:
        """Keep each input's vector. Returns why one was not kept."""
        dropped: Dropped | None = None
        for text, vector in made.items():
            entry = entry_of(question, VECTOR_TYPE, self._now(), [vectors.pack(vector)])
            dropped = self._put(alone(question, text), entry) or dropped
        return dropped

    def keep_whole(self, question: Question, entry: Entry) -> Dropped | None:
        """Keep an answer: that to a batch input by input, if it can be taken apart."""
        texts = inputs(question)
        made = None if texts is None else vectors.split(b"".join(entry.lines), texts)
        if texts is None or made is None:
            return self._put(question, entry)
        return self.keep(question, dict(zip(texts, made, strict=True)))

    async def _ask(self, question: Question, timeout_s: float) -> tuple[Vector, float] | None:
        try:
            packed = await self._get(question.key, timeout_s)
        except CacheUnavailable:
            return None
        found = None if packed is None else vector_of(question, packed)
        return None if found is None or self._is_stale(self._now() - found[1]) else found


def stored_at(found: Hit | Miss) -> float:
    """When the oldest part of what memory knows was stored; infinite where it knows nothing."""
    if isinstance(found, Hit):
        return found.entry.stored_at
    return found.batch.since if found.batch else float("inf")


async def _joined(question: Question, batch: Batch, more: Made, now: float) -> Entry:
    """The whole answer, with what memory did not know; `now`: when that was made."""
    known = {**batch.known, **more}
    parts = [known[text] for text in batch.texts]
    size = sum(len(vector.data) for vector in parts)
    body = await _off_loop(size, vectors.join, question.spelled, parts)
    answer = entry_of(question, JSON_TYPE, min(batch.since, now), [body])
    return structs.replace(answer, worth=of_vectors(known.values()))


def keyed(route: str, native: Mapping[str, Any]) -> Mapping[str, Any]:
    """The request as its key is made of it: one input in a list is that input."""
    texts = vectors.texts_of(native) if route == EMBED else None
    return native if texts is None or len(texts) > 1 else vectors.asking_for(native, texts[0])


def inputs(question: Question) -> list[str] | None:
    """The inputs of a question that is answered by inputs; None for every other question."""
    return vectors.texts_of(question.native) if question.route == EMBED else None


def alone(question: Question, text: str) -> Question:
    """The question for one of its inputs."""
    key = request_key(
        question.route,
        vectors.asking_for(question.native, text),
        digest=question.digest,
        fingerprint=question.fingerprint,
        tenant=question.tenant,
    )
    return structs.replace(question, key=key)


async def _off_loop(size: int, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Do the work here, or in a thread if it is large."""
    if size < _LARGE_BYTES:
        return work(*args, **kwargs)
    return await asyncio.to_thread(work, *args, **kwargs)
