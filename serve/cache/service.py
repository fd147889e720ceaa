"""The answer cache as the ingress uses it: near, shards, catalogue, policy and keys put together.

A request goes through it like this:

- `lookup_near(raw_key)`: bytes that were answered before, if that answer is still current.
- `lookup(…)`: the request's meaning. A `Hit`, or a `Miss` that says why, and under which digest the
  answer must be made to be kept.
- `Miss.seat`: where the answer is heard, generated once for everybody who asks for it meanwhile.
- `fill(miss, …)`: the engine's answer, kept if it ended well and its digest never changed.
- `remember(raw_key, hit, …)`: the reply as it went out, for the next request of the same bytes.

Everything that can go wrong with a shard is a miss. While no shard has vouched for the catalogue
within the last lease, nothing is looked up or kept at all.
"""

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Self

from msgspec import structs

from serve.cache import batch, policy
from serve.cache.answer import entry_of, put_of
from serve.cache.batch import Batches
from serve.cache.bookkeeper import Bookkeeper
from serve.cache.catalogue import Catalogue
from serve.cache.client import Resolve
from serve.cache.control import NO_CONTROLS, Controls, controls
from serve.cache.days import Days
from serve.cache.entry import MAX_UNPACKED_BYTES, Entry
from serve.cache.flights import MAX_FLIGHT_BYTES
from serve.cache.joining import Joining
from serve.cache.key import request_key
from serve.cache.ledger import Ledger
from serve.cache.lookup import Lookup, is_stale
from serve.cache.near import Near, NearReply
from serve.cache.outcome import Dropped, Hit, Miss, Question
from serve.cache.recognise import raw_key
from serve.cache.shards import Shards
from serve.cache.worth import is_worth_it, kept_s, worth_of
from serve.errors import BadRequest, ConfigError
from serve.ports import CatalogueView, Clock, Tail
from serve.settings import CacheSettings, Policy
from serve.wire.names import canonical

_UNPACKED_TO_PACKED = 8  # how far a stream's lines shrink, about; bounds what is kept to pack

__all__ = ["AnswerCache", "Hit", "Miss"]


def policies(settings: CacheSettings) -> dict[str, Policy]:
    """`cache.models` by canonical name. Raises `ConfigError` for a name that can't be one."""
    chosen: dict[str, Policy] = {}
    for name, policy_name in settings.models.items():
        try:
            chosen[canonical(name)] = policy_name
        except BadRequest as error:
            raise ConfigError(f"cache.models.{name}: {error}") from error
    return chosen


class AnswerCache:
    """Owns the near cache, the catalogue and the connections to the shards.

    `clock`: monotonic seconds. `now`: seconds since the epoch. `serves`: is this an ingress's, or
    does it only look on?
    """

    raw_key = staticmethod(raw_key)

    def __init__(
        self,
        settings: CacheSettings,
        resolvers: Sequence[Resolve],
        *,
        clock: Clock,
        now: Clock,
        serves: bool = True,
    ) -> None:
        self.settings = self._settings = settings
        self._serves = serves
        self._clock = clock
        self._now = now
        self._policies = policies(settings)
        self._generation = 0
        self.lifetime_s = int(settings.ttl_s)
        """How old an answer may grow, in whole seconds."""
        self.dropped: Counter[Dropped] = Counter()
        self.catalogue = Catalogue(settings.lease_s)
        self._days = Days(self.catalogue, now)
        self.near = Near(settings, self.catalogue.vouches)
        self.shards = Shards(
            resolvers, clock=clock, lease_s=settings.lease_s, watcher=self, serves=serves
        )
        self.ledger = Ledger(lambda model: model in self.catalogue.view.models)
        """What this ingress's requests come to, told to the authority while it serves."""
        self._books = Bookkeeper(self.ledger, self.shards.count)
        self._batches = Batches(
            self.shards.get,
            self._send,
            timeout_s=settings.lookup_timeout_s,
            now=now,
            is_stale=partial(is_stale, settings),
        )
        self.joining = Joining(
            self.shards,
            ask_within_s=settings.lookup_timeout_s,
            max_bytes=max(MAX_FLIGHT_BYTES, self._keep_bytes),
        )
        self._lookup = Lookup(
            settings, self.shards, self._batches, self.joining, self.fill, now=now
        )

    async def __aenter__(self) -> Self:
        await self.shards.__aenter__()
        if self._serves:
            self._books.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.joining.stop()
        await self._books.stop()
        await self.shards.__aexit__(kind, error, trace)

    @property
    def generation(self) -> int:
        """The near cache's: an answer of another one is not to be given."""
        return self._generation

    @property
    def near_bytes(self) -> int:
        """What the near cache holds."""
        return self.near.held_bytes

    @property
    def has_catalogue(self) -> bool:
        """Has a shard vouched, within the last lease, for models that engines list?"""
        return self.catalogue.is_live(self._clock()) and bool(self.catalogue.view.models)

    def viewed(self, view: CatalogueView, generation: int) -> None:
        """From the authority: the view, and whether near answers must be forgotten."""
        has_moved = view.utc_offset_s != self.catalogue.view.utc_offset_s
        if generation != self._generation:
            self.joining.outdate()
        if generation != self._generation or has_moved:  # when the day ends was told with replies
            self._generation = generation
            self.near.clear()
        self.catalogue.adopt(view)

    def renewed(self, epoch: int, asked_at: float) -> None:
        """From the authority: the view is still its own."""
        self.catalogue.renew(epoch, asked_at)

    def forfeited(self) -> None:
        """The connection to the authority is being closed from here."""
        self.catalogue.forfeit()

    def lookup_near(self, raw_key: bytes) -> NearReply | None:
        """The reply to these bytes, if they were answered before and that is still current."""
        return self.near.get(raw_key, self._clock())

    async def lookup(
        self,
        route: str,
        native: Mapping[str, Any],
        *,
        model: str,
        tenant: str,
        cache_control: bytes = b"",
        pragma: bytes = b"",
    ) -> Hit | Miss:
        """An answer from memory, or why there is none.

        `native` is the request as it goes to the engine, `model` its canonical name.
        """
        asked = controls(cache_control.decode("latin-1"), pragma.decode("latin-1"))
        question = self._resolve(route, native, model, tenant, asked)
        if isinstance(question, Question):
            if cache_control or pragma:
                question = structs.replace(question, is_plain=False)
            found = await self._lookup.find(question, asked)
        elif self._is_shared(question, asked):
            found = await self._lookup.share(self.question(route, native, model, tenant))
        else:
            found = question
        if asked.only_if_cached and isinstance(found, Miss):
            return structs.replace(found, is_final=True)
        return found

    def _resolve(
        self, route: str, native: Mapping[str, Any], model: str, tenant: str, asked: Controls
    ) -> Question | Miss:
        """What a shard is to be asked, or why none is."""
        verdict = self.verdict(route, native, model, asked)
        if not verdict.may_store:
            return Miss("bypass", verdict.reason or "policy")
        question = self.question(route, native, model, tenant)
        if verdict.may_read or isinstance(question, Miss):
            return question
        question = structs.replace(question, is_plain=False)
        return Miss("bypass", verdict.reason or "policy", question)

    def verdict(
        self, route: str, native: Mapping[str, Any], model: str, asked: Controls
    ) -> policy.Verdict:
        """May this request be answered from memory, and its answer be kept?"""
        if self.catalogue.view.is_paused:
            return policy.PAUSED
        policy_of_model = self._policies.get(model, self._settings.policy)
        return policy.gate(route, native, policy_of_model, asked)

    def _is_shared(self, miss: Miss, asked: Controls) -> bool:
        """May those who ask for the same sample at the same time get the same?"""
        return miss.reason == "sampled" and self._settings.join_sampled and asked == NO_CONTROLS

    def keep_bytes(self, miss: Miss) -> int:
        """How much of the engine's answer to keep for `fill`; 0 if it must not be kept."""
        if miss.question is None:
            return 0
        return self._keep_bytes

    @property
    def _keep_bytes(self) -> int:
        return min(MAX_UNPACKED_BYTES, _UNPACKED_TO_PACKED * self._settings.max_entry_bytes)

    def fill(
        self, miss: Miss, *, lines: Sequence[bytes], content_type: str, tail: Tail
    ) -> Hit | None:
        """Keep the engine's answer (status 200, `lines` without newlines) in its shard.

        Returns it as a hit, whose reply may be remembered, or None; `dropped` counts why.
        """
        question = miss.question
        if question is None:
            return None
        unfit = self._unfit(question, tail)
        unfit = unfit or policy.unworthy(question.route, question.native, lines)
        entry = entry_of(question, content_type, self._now(), lines)
        unfit = unfit or self._batches.keep_whole(question, entry)
        if unfit is not None:
            self.dropped[unfit] += 1
            return None
        return Hit(entry, question)

    async def complete(
        self, miss: Miss, *, body: bytes, tail: Tail | None
    ) -> tuple[Hit, bool] | None:
        """The whole answer to a batch: what memory knew, and the engine's answer for the rest.

        And whether the rest was kept. None where the two may not be put together: the engine's
        answer has a form that isn't known here, or was made from another content.
        """
        question = miss.question
        if question is None or tail is None or not _is_made_from(question, tail):
            return None
        completed = await self._batches.complete(miss, body)
        if completed is None:
            return None
        entry, made = completed
        unfit = self._unfit(question, tail) or self._batches.keep(question, made)
        if unfit is not None:
            self.dropped[unfit] += 1
            question = structs.replace(question, is_plain=False)  # not to be remembered
        return Hit(entry, question), unfit is None

    def remember(
        self,
        raw_key: bytes,
        hit: Hit,
        *,
        status: int,
        headers: Sequence[tuple[bytes, bytes]],
        body: bytes,
    ) -> None:
        """Keep the reply to these bytes in the near cache, as long as its entry lives."""
        question, entry = hit.question, hit.entry
        is_past = question.generation != self._generation or self._days.is_over(question)
        if self.catalogue.view.is_paused or is_past or not question.is_plain:
            return
        age_s = max(0.0, self._now() - entry.stored_at)
        worth = worth_of(entry)
        reply = NearReply(
            model=sys.intern(question.model),  # one object for all of a model's replies
            digest=question.digest,
            fingerprint=question.fingerprint,
            key=question.key,
            stored_at=entry.stored_at,
            expires_at=self._clock()
            + min(self._settings.ttl_s - age_s, self._days.left_s(question)),
            status=status,
            headers=tuple(headers),
            body=body,
            tokens=worth.tokens,
            gpu_ns=worth.gpu_ns,
        )
        self.near.put(raw_key, reply)

    def question(
        self, route: str, native: Mapping[str, Any], model: str, tenant: str
    ) -> Question | Miss:
        """The request under the digest that its model stands for now."""
        view, now = self.catalogue.view, self._clock()
        if not self.catalogue.is_live(now):
            return Miss("miss", "no-catalogue")
        digest = self.catalogue.digest(model, now)
        if not digest:
            return Miss("miss", "unlisted")
        fingerprint = view.runs(model)
        if not fingerprint:
            return Miss("miss", "mixed-engines")
        day = self._days.of(route, native, model)
        if day is None:
            return Miss("miss", "mixed-zones")
        keyed = batch.keyed(route, native)
        facts = {"digest": digest, "fingerprint": fingerprint, "tenant": tenant, "day": day}
        try:
            key = request_key(route, keyed, **facts)
        except RecursionError:
            return Miss("bypass", "unkeyable")
        made_from = (model, key, digest, fingerprint, self._generation)
        return Question(
            route,
            native,
            *made_from,
            is_plain=True,
            tenant=tenant,
            day=day,
            generations=self.shards.generations(),
        )

    def _unfit(self, question: Question, tail: Tail) -> Dropped | None:
        if not _is_made_from(question, tail):
            return "digest"
        if self.catalogue.view.is_paused:
            return "paused"
        current = (question.model, question.digest, question.fingerprint)
        if not self.catalogue.vouches(*current, self._clock()):
            return "digest"
        if self._days.is_over(question):
            return "midnight"
        return "purged" if question.generation != self._generation else None

    def _send(self, question: Question, entry: Entry) -> Dropped | None:
        """Give the entry to its shard. A shard that is away costs only that it won't know it."""
        try:
            packed = entry.pack()
        except ValueError:
            return "too-large"
        if len(packed) > self._settings.max_entry_bytes:
            return "too-large"
        longest_s, settings = self._settings.kept_s, self._settings
        if settings.min_gpu_ms_per_kib or settings.full_ttl_gpu_ms_per_kib:
            gpu_ns, size = worth_of(entry).gpu_ns, len(packed)
            if not is_worth_it(gpu_ns, size, settings.min_gpu_ms_per_kib):
                return "not-worth-it"
            longest_s = kept_s(gpu_ns, size, settings.full_ttl_gpu_ms_per_kib, longest_s)
        ttl_s = min(longest_s, self._days.left_s(question))
        if not self.shards.put(put_of(question, packed, ttl_s)):
            self.dropped["unsent"] += 1
        return None


def _is_made_from(question: Question, tail: Tail) -> bool:
    made_from = (tail.digest_before, tail.digest_after, tail.fingerprint)
    return made_from == (question.digest, question.digest, question.fingerprint)
