"""What the shards know of a question: an answer, one past its time, or a seat where one is made."""

from collections.abc import Sequence
from functools import partial
from typing import Protocol

from msgspec import structs

from serve.cache import batch
from serve.cache.answer import answer_of
from serve.cache.batch import Batches
from serve.cache.control import NO_CONTROLS, Controls
from serve.cache.joining import Joining
from serve.cache.outcome import Hit, Miss, Question, Stale
from serve.cache.shards import Shards
from serve.errors import CacheUnavailable
from serve.ports import Clock, Tail
from serve.settings import CacheSettings


class Fill(Protocol):
    """`AnswerCache.fill`, as a flight calls it."""

    def __call__(
        self, miss: Miss, *, lines: Sequence[bytes], content_type: str, tail: Tail
    ) -> Hit | None:
        """Keep the engine's answer, or say why not by counting it."""


class Lookup:
    """Asks the shards. `fill` keeps what a flight brings; `now`: seconds since the epoch."""

    def __init__(
        self,
        settings: CacheSettings,
        shards: Shards,
        batches: Batches,
        joining: Joining,
        fill: Fill,
        *,
        now: Clock,
    ) -> None:
        self._settings = settings
        self._shards = shards
        self._batches = batches
        self._joining = joining
        self._fill = fill
        self._now = now

    async def find(self, question: Question, asked: Controls) -> Hit | Miss:
        """An answer that is young enough, or why there is none."""
        found = await self._find(question, joins=not asked.only_if_cached)
        if asked.refuses(self._now() - batch.stored_at(found)):
            return Miss("miss", "too-old", question)
        return await self._current(found, question, asked)

    async def share(self, question: Question | Miss) -> Miss:
        """A seat in a flight whose answer nobody keeps."""
        if isinstance(question, Miss):
            return question
        seat = self._joining.sit(question, None)
        await seat.found()
        if seat.reason == "joined":
            return Miss("miss", "joined", seat=seat)
        return Miss("bypass", "sampled", seat=seat)

    async def _find(self, question: Question, *, joins: bool) -> Hit | Miss:
        """Look a batch up by its inputs; all else, and a batch that is all new, by its key."""
        found = await self._batches.find(question)
        if found is None:
            found = await (self._sit(question) if joins else self._ask(question))
        return found

    async def _ask(self, question: Question) -> Hit | Miss:
        """Ask the shard that has this key, for an entry alone."""
        try:
            packed = await self._shards.get(question.key, self._settings.lookup_timeout_s)
        except CacheUnavailable:
            return Miss("miss", "unavailable", question)
        return _read(question, packed)

    async def _sit(self, question: Question) -> Hit | Miss:
        """An entry, or a seat in the flight that will bring one."""
        seat = self._joining.sit(question, partial(self._fill, Miss("miss", "cold", question)))
        packed = await seat.found()
        if packed is None:
            return Miss("miss", seat.reason, question, seat=seat)
        return _read(question, packed)

    async def _current(self, found: Hit | Miss, question: Question, asked: Controls) -> Hit | Miss:
        """What was found, unless it is past its time: then a seat in the flight that renews it."""
        if isinstance(found, Miss):
            if found.seat is None or found.seat.old is None:
                return found
            old = Hit(found.seat.old.spelled_as(question.spelled), question)
            return structs.replace(found, stale=self._stale(old, asked))
        if not is_stale(self._settings, self._now() - found.entry.stored_at):
            return found
        if asked.only_if_cached:
            return Miss("miss", "stale", question)
        keep = partial(self._fill, Miss("miss", "stale", question))
        seat = self._joining.sit(question, keep, old=found.entry)
        stale = self._stale(found, asked)
        if await seat.found() is not None:  # who asked just before us was told of the old one
            return Miss("miss", "stale", question, stale=stale)
        reason = "stale" if seat.reason == "cold" else seat.reason
        return Miss("miss", reason, question, seat=seat, stale=stale)

    def _stale(self, hit: Hit, asked: Controls) -> Stale:
        age_s = self._now() - hit.entry.stored_at
        meanwhile, if_error = may_do(self._settings, age_s, asked)
        return Stale(hit, meanwhile=meanwhile, if_error=if_error)


def is_stale(settings: CacheSettings, age_s: float) -> bool:
    """Is an answer of this age only there for need? Without need, its shard decides alone."""
    return settings.ttl_s < age_s and settings.ttl_s < settings.kept_s


def may_do(settings: CacheSettings, age_s: float, asked: Controls) -> tuple[bool, bool]:
    """May an answer past its time do while a new one is made, and if none can be made?

    RFC 5861 §3 and §4.
    """
    over_s = age_s - settings.ttl_s
    in_need_s: float | None = asked.stale_if_error_s
    if in_need_s is None:
        in_need_s = settings.stale_if_error_s
    meanwhile = over_s <= settings.stale_while_revalidate_s and asked == NO_CONTROLS
    return meanwhile, over_s <= in_need_s


def _read(question: Question, packed: bytes | None) -> Hit | Miss:
    entry = None if packed is None else answer_of(question, packed)
    return Miss("miss", "cold", question) if entry is None else Hit(entry, question)
