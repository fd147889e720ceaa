"""What the parts say to each other: the values that cross a process, and the protocols.

`Call`, `Head`, `Tail` and `CatalogueView` are small and picklable: they cross Ray's handles and
the shards' sockets. The protocols are what a caller may rely on; tests stand real objects behind
them, or ones that inject faults.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Protocol

from msgspec import Struct

COMPUTED = frozenset(
    {
        *("/api/generate", "/api/chat", "/api/embed", "/api/embeddings"),
        "/v1/audio/transcriptions",
    }
)
"""The engine's routes whose calls take up a slot."""


class Call(Struct, frozen=True):
    """One request for an engine, as bytes: fields that we don't know survive.

    `model` is the canonical name (`serve.wire.names`), or "" where the route has none.
    `deadline_s` is what is left of the request's own time, or None.
    `replica` is the `Member.name` of the only replica that may get it, or "" for any.
    `tenant`, `num_ctx` (tokens of context asked for, 0: the model's own or the pool's) and
    `affinity` (of one conversation, or "") are for those who place it (`serve.fleet`).
    `content_type` of the body, or "" for JSON. `user_agent`: the client's, where the answer depends
    on it (`/api/show` alone), else "".
    """

    method: str
    path: str
    body: bytes
    request_id: str
    model: str = ""
    deadline_s: float | None = None
    replica: str = ""
    tenant: str = ""
    num_ctx: int = 0
    affinity: str = ""
    content_type: str = ""
    user_agent: str = ""


class Member(Struct, frozen=True):
    """One inference replica that runs.

    `store` is the same for all members that have one model store in common: what is pulled,
    created or deleted by one of them is so for all of them.
    """

    name: str
    pool: str
    store: str


class Head(Struct, frozen=True):
    """The first frame of an answer: the engine's status and content type.

    `is_unreached`: this is no engine's word, but that of a replica whose engine gave none; another
    replica may be asked the same. `state` (of the model: loaded, loading, cold; "" if nobody knows)
    and `position` (in the line when it asked, 0 if it didn't wait) are told by who placed the call.
    """

    status: int
    content_type: str
    is_unreached: bool = False
    state: str = ""
    position: int = 0
    replica: str = ""


class Tail(Struct, frozen=True):
    """The last frame of an answer that ended well: what it was made from.

    `digest_before`/`digest_after`: the model's digest when the call reached the engine and after
    its last byte, "" where the engine doesn't list the model.
    `fingerprint`: the engine's runtime (version, context length, KV type …) in one string.
    """

    digest_before: str
    digest_after: str
    fingerprint: str


class Failed(Struct, frozen=True):
    """The last frame of an answer that broke after its `Head`: what clients are told."""

    message: str


Frame = Head | bytes | Tail | Failed


class Inference(Protocol):
    """What the ingress may ask of the inference pool."""

    def stream(self, call: Call) -> AsyncGenerator[Frame, None]:
        """One `Head`, then bytes (whole NDJSON lines where the answer is NDJSON), then a `Tail`.

        Never raises for what an engine says: refusals, crashes and overload arrive as a `Head`
        with Ollama's status and an Ollama error body or, after a `Head`, as `Failed`; an engine's
        own last line `{"error": …}` is passed on as it is. Neither is followed by a `Tail`.
        Closing the generator stops the engine's work.
        Raises `EngineDied` only if the replica itself is lost.
        """
        ...


class Fleet(Inference, Protocol):
    """All replicas of all pools, each of which can be called by name."""

    def members(self) -> Sequence[Member]:
        """Those that run now, in the order of their names; none while all pools are at zero.

        A call with such a `replica` goes there and nowhere else. Raises `EngineNotReady` from
        `stream` if it has gone.
        """
        ...

    def pool_of(self, model: str) -> str | None:
        """The pool that a canonical name is asked of; None if no pool serves it."""
        ...

    @property
    def may_be_empty(self) -> bool:
        """Is it in order that no replica runs while nobody asks?"""
        ...


class Model(Struct, frozen=True):
    """One tag as an engine lists it: its digest, and its row of `/api/tags` as JSON.

    `is_dated`: its prompts may hold the date (`serve.wire.dates`). So is what isn't known yet.
    """

    digest: str
    row: bytes = b""
    is_dated: bool = True


class Report(Struct, frozen=True):
    """What one inference replica tells the shards about its engine, every `catalogue.poll_s`.

    `models` maps canonical names to what the engine lists now, of those that are asked of its pool.
    `fingerprint` as in `Tail`.
    `utc_offset_s`: how far the engine's local time is ahead of UTC.
    """

    replica_id: str
    engine_version: str
    fingerprint: str
    models: Mapping[str, Model]
    utc_offset_s: int = 0


class CatalogueView(Struct, frozen=True):
    """What all replicas agree on: name → model; names they disagree on are left out.

    `fingerprint` is "" where replicas differ in it; then `fingerprints` has those of the models
    whose replicas don't, and nothing else may be cached.
    `utc_offset_s` is None where they differ in it, and then nothing that holds the date may.
    `is_paused`: an operator has said that nothing is to be read from the cache or kept.
    """

    epoch: int
    fingerprint: str
    engine_version: str
    models: Mapping[str, Model]
    utc_offset_s: int | None = 0
    is_paused: bool = False
    fingerprints: Mapping[str, str] = {}

    def runs(self, model: str) -> str:
        """The fingerprint of the engines that this model is asked of; "" if they differ."""
        return self.fingerprint or self.fingerprints.get(model, "")


class Clock(Protocol):
    """Seconds since some fixed point; monotonic."""

    def __call__(self) -> float:
        """The time now."""
        ...
