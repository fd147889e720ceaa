"""What the ingress's handlers work with, put together once when the application is built."""

from collections.abc import Callable
from dataclasses import dataclass

from serve.cache.service import AnswerCache
from serve.edge.scout import Scout
from serve.ports import Fleet, Inference, Member
from serve.web.cache_status import of_hit
from serve.web.identity import Directory
from serve.web.journal import Journal
from serve.web.meter import Meter
from serve.web.origin import Hosts, Origins
from serve.web.reply import Header

ANY = Member("", "", "")
"""Whichever replica gets the call."""


@dataclass(frozen=True, slots=True)
class Services:
    """The parts behind the routes. `now` is wall clock time in seconds, for `Age`."""

    inference: Inference
    answers: AnswerCache
    directory: Directory
    origins: Origins
    hosts: Hosts
    meter: Meter
    journal: Journal
    now: Callable[[], float]
    max_body_bytes: int
    deadline_s: float | None = None
    scout: Scout | None = None
    fleet: Fleet | None = None
    """All replicas by name; without it, whichever gets a call of `inference` is all there is."""
    max_upload_backlog_bytes: int = 64 << 20

    def members(self) -> list[Member]:
        """The replicas that run; one without a name, which any may be, where none is known."""
        known = list(self.fleet.members()) if self.fleet is not None else []
        return known or [ANY]

    def stores(self, model: str = "") -> list[Member]:
        """One member for each model store; of a model, only those of the pool that serves it."""
        pool = self.fleet.pool_of(model) if self.fleet is not None and model else None
        each = {member.store: member for member in reversed(self.members())}
        kept = [one for one in each.values() if pool in (None, one.pool) or one is ANY]
        return sorted(kept or each.values(), key=lambda one: one.name)

    def lists(self, member: Member, model: str) -> bool:
        """Is this model asked of that member's pool?"""
        return self.fleet is None or member is ANY or self.fleet.pool_of(model) == member.pool

    def remembered(self, stored_at: float, key: bytes, tier: bytes) -> tuple[Header, Header]:
        """`Age` (RFC 9111 §5.1) and `Cache-Status` of an answer stored then."""
        age_s = max(0, int(self.now() - stored_at))
        return (b"age", b"%d" % age_s), of_hit(key, age_s, self.answers.lifetime_s, tier)
