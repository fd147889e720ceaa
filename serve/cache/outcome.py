"""What the cache says of one request: a hit or a miss, and every reason that there is."""

from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any, Literal, Protocol

from msgspec import Struct

from serve.cache.entry import Entry
from serve.cache.policy import Bypass, Unworthy
from serve.cache.vectors import Vector
from serve.ports import Frame

Missed = Literal[
    "cold",  # nobody asked before, or it has left
    "partial",  # some inputs of an embedding batch are known, not all
    "too-old",  # older than the request's `max-age`
    "stale",  # older than `cache.ttl_s`
    "unavailable",  # the shard did not answer in time
    "no-catalogue",  # no shard has vouched for the models' digests lately
    "unlisted",  # no engine lists the model, or they disagree about it
    "joined",  # the same is being generated just now: what it brings is passed on
    "mixed-engines",  # the engines differ in version or settings
    "mixed-zones",  # they differ in their local time, and the prompt may hold the date
]
Dropped = (
    Literal[
        "digest",  # made from another content than the catalogue's, or no longer vouched for
        "too-large",  # over `cache.max_entry_bytes` packed
        "not-worth-it",  # under `cache.min_gpu_ms_per_kib`: quicker made again than worth its room
        "purged",  # asked before a purge
        "paused",  # asked before the cache was paused
        "midnight",  # asked on another day than answered, and the prompt may hold the date
        "unsent",  # the shard is away; the near cache has it all the same
    ]
    | Unworthy
)


class Question(Struct, frozen=True):
    """What was asked, and of which content: what a hit and a miss have in common."""

    route: str
    native: Mapping[str, Any]
    model: str
    key: bytes
    digest: str
    fingerprint: str
    generation: int
    is_plain: bool
    """No cache controls: the reply may be given again to the same bytes."""
    tenant: str = ""
    generations: tuple[int, ...] = ()
    """Of each shard, when this was asked (`protocol.Put`)."""
    day: str = ""
    """The engine's local date where the prompt may hold it."""

    @property
    def spelled(self) -> str:
        """The model as the caller spells it."""
        return str(self.native.get("model", ""))


class Hit(Struct, frozen=True):
    """An answer from memory, in the caller's spelling of the model."""

    entry: Entry
    question: Question


class Stale(Struct, frozen=True):
    """An answer past its time (RFC 5861): `meanwhile` a new one is made, or `if_error` none is."""

    hit: Hit
    meanwhile: bool
    if_error: bool


class Batch(Struct, frozen=True):
    """An embed request's inputs, and those of them that memory knows.

    `since`: when the oldest of these was stored, in seconds since the epoch; infinite for none.
    """

    texts: tuple[str, ...]
    known: Mapping[str, Vector]
    since: float

    @property
    def missing(self) -> list[str]:
        """What memory doesn't know, each text once, in the order of the request."""
        return [text for text in dict.fromkeys(self.texts) if text not in self.known]

    @property
    def is_as_asked(self) -> bool:
        """Must an engine be asked for just what the client asked for?"""
        return not self.known and len(set(self.texts)) == len(self.texts)


class Listening(Protocol):
    """A seat in a flight: whoever gets one must leave it (`serve.cache.joining`)."""

    @property
    def hit(self) -> Hit | None:
        """The whole answer, if it was generated here and kept; known when its tail comes."""
        ...

    @property
    def old(self) -> Entry | None:
        """The answer past its time that this flight renews."""
        ...

    def frames(
        self, start: Callable[[], AsyncGenerator[Frame, None]]
    ) -> AsyncGenerator[Frame, None]:
        """The answer from its beginning; `start` generates it, where that is to be done here."""
        ...

    def leave(self) -> None:
        """Listen no more."""
        ...

    def hear_out(self, start: Callable[[], AsyncGenerator[Frame, None]]) -> None:
        """Have the answer generated to its end, by whom it may be, heard by nobody here."""
        ...


class Miss(Struct, frozen=True):
    """No answer from memory: `kind` and `reason` as `X-Rayllama-Cache` tells them.

    `question` is None where the engine's answer must not be kept. `is_final`: the request says
    `only-if-cached`, so no engine may be asked. `batch`: ask the engine for what is missing alone.
    With a `seat` the answer is heard there, and kept by who generates it; without one, ask the
    engine and `fill`. `stale`: what may be given instead.
    """

    kind: Literal["miss", "bypass"]
    reason: Missed | Bypass
    question: Question | None = None
    is_final: bool = False
    batch: Batch | None = None
    seat: Listening | None = None
    stale: Stale | None = None
