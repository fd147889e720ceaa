"""What would become of a request, and why: the questions of `service.lookup`, none of its effects.

Nothing is generated, joined or counted. Near caches are the ingresses' own and not looked into: a
hit here may be told as `hit; tier=near` there. And a miss may be told as `joined`, if the same
happens to run just then.
"""

import asyncio
from collections.abc import Mapping
from typing import Any, Literal

from msgspec import Struct, structs

from serve.cache import batch
from serve.cache.answer import answer_of, vector_of
from serve.cache.control import Controls, controls
from serve.cache.days import Days
from serve.cache.lookup import is_stale, may_do
from serve.cache.outcome import Question
from serve.cache.policy import Verdict
from serve.cache.service import AnswerCache
from serve.ports import Clock

ASK_WITHIN_S = 5.0


class Explanation(Struct, frozen=True, kw_only=True):
    """What the cache would say. Empty or null is what isn't known, or doesn't matter any more.

    `verdict`, `reason`: as `X-Rayllama-Cache` tells them. `route`: the native one, whatever the
    dialect. `key`: in hex, as `Cache-Status` tells it. `shard`: the number of the one that has the
    key. `inputs`, `known`: of an embedding batch, which is kept by its inputs, and how many of them
    are there. `stored_bytes`: packed. `day`: the date that the answer is bound to. `ttl_s`: how
    long it is good, to the end of that day at most; negative where it is past its time, and then
    `given` says when it is given all the same (RFC 5861): `meanwhile` a new one is made, `if-error`
    none can be made, or `never`.
    """

    verdict: Literal["hit", "miss", "bypass"]
    reason: str = ""
    may_read: bool
    may_store: bool
    route: str
    model: str
    tenant: str
    digest: str = ""
    fingerprint: str = ""
    key: str = ""
    shard: int | None = None
    age_s: float | None = None
    ttl_s: float | None = None
    stored_bytes: int | None = None
    day: str = ""
    given: Literal["", "meanwhile", "if-error", "never"] = ""
    inputs: int | None = None
    known: int | None = None


class Asking(Struct, frozen=True):
    """A request as `AnswerCache.lookup` takes it, and the values of its headers."""

    route: str
    native: Mapping[str, Any]
    model: str
    tenant: str
    cache_control: str = ""
    pragma: str = ""


async def explain(answers: AnswerCache, asking: Asking, now: Clock) -> Explanation:
    """What would become of it. `now`: seconds since the epoch.

    Raises `CacheUnavailable` if it depends on a shard that doesn't answer.
    """
    wishes = controls(asking.cache_control, asking.pragma)
    verdict = answers.verdict(asking.route, asking.native, asking.model, wishes)
    question = answers.question(asking.route, asking.native, asking.model, asking.tenant)
    told = _of_request(asking, verdict, question)
    if not verdict.may_store:
        return told
    if not isinstance(question, Question):
        return structs.replace(told, verdict=question.kind, reason=question.reason)
    told = structs.replace(told, shard=answers.shards.number(question.key))
    texts = batch.inputs(question)
    if texts is None or len(texts) == 1:
        told = await _of_one(answers, question, told, now)
    else:
        told = await _of_batch(answers, question, list(dict.fromkeys(texts)), told, now)
    if not verdict.may_read:
        return structs.replace(told, verdict="bypass", reason=verdict.reason or "policy")
    return _past_its_time(answers, _too_old(told, wishes), wishes)


def _of_request(asking: Asking, verdict: Verdict, question: object) -> Explanation:
    """What the request alone, and the catalogue, say of it."""
    told = Explanation(
        verdict="bypass",
        reason=verdict.reason or "policy",
        may_read=verdict.may_read,
        may_store=verdict.may_store,
        route=asking.route,
        model=asking.model,
        tenant=asking.tenant,
    )
    if not isinstance(question, Question):
        return told
    return structs.replace(
        told,
        digest=question.digest,
        fingerprint=question.fingerprint,
        key=question.key.hex(),
        day=question.day,
    )


async def _of_one(
    answers: AnswerCache, question: Question, told: Explanation, now: Clock
) -> Explanation:
    packed = await answers.shards.peek(question.key, ASK_WITHIN_S)
    entry = None if packed is None else answer_of(question, packed)
    if packed is None or entry is None:
        return structs.replace(told, verdict="miss", reason="cold")
    told = _of_age(answers, question, told, entry.stored_at, now)
    return structs.replace(told, verdict="hit", reason="", stored_bytes=len(packed))


async def _of_batch(
    answers: AnswerCache, question: Question, texts: list[str], told: Explanation, now: Clock
) -> Explanation:
    async def look(text: str) -> tuple[int, float] | None:
        packed = await answers.shards.peek(batch.alone(question, text).key, ASK_WITHIN_S)
        found = None if packed is None else vector_of(question, packed)
        if packed is None or found is None or is_stale(answers.settings, now() - found[1]):
            return None
        return len(packed), found[1]

    found = [item for item in await asyncio.gather(*map(look, texts)) if item is not None]
    told = structs.replace(told, shard=None, inputs=len(texts), known=len(found))
    if not found:
        return structs.replace(told, verdict="miss", reason="cold")
    told = _of_age(answers, question, told, min(stored_at for _, stored_at in found), now)
    is_whole = len(found) == len(texts)
    return structs.replace(
        told,
        verdict="hit" if is_whole else "miss",
        reason="" if is_whole else "partial",
        stored_bytes=sum(size for size, _ in found),
    )


def _of_age(
    answers: AnswerCache, question: Question, told: Explanation, stored_at: float, now: Clock
) -> Explanation:
    age_s = max(0.0, now() - stored_at)
    left_s = answers.lifetime_s - age_s
    if not is_stale(answers.settings, age_s):  # without need, the shard alone decides when it ends
        left_s = max(0.0, left_s)
    left_s = min(left_s, Days(answers.catalogue, now).left_s(question))
    return structs.replace(told, age_s=age_s, ttl_s=left_s)


def _past_its_time(answers: AnswerCache, told: Explanation, wishes: Controls) -> Explanation:
    """What a look-up does with an answer that is only there for need."""
    if told.verdict != "hit" or told.age_s is None or not is_stale(answers.settings, told.age_s):
        return told
    if wishes.only_if_cached:
        return structs.replace(told, verdict="miss", reason="stale", given="never")
    meanwhile, if_error = may_do(answers.settings, told.age_s, wishes)
    if meanwhile:
        return structs.replace(told, reason="stale", given="meanwhile")
    given: Literal["if-error", "never"] = "if-error" if if_error else "never"
    return structs.replace(told, verdict="miss", reason="stale", given=given)


def _too_old(told: Explanation, wishes: Controls) -> Explanation:
    if told.age_s is not None and wishes.refuses(told.age_s):
        return structs.replace(told, verdict="miss", reason="too-old")
    return told
