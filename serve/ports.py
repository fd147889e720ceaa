"""What the parts say to each other: the values that cross a process, and the protocols.

`Call`, `Head`, `Tail` and `CatalogueView` are small and picklable: they cross Ray's handles and
the shards' sockets. The protocols are what a caller may rely on; tests stand real objects behind
them, or ones that inject faults.
"""

from collections.abc import AsyncGenerator, Mapping
from typing import Protocol

from msgspec import Struct


class Call(Struct, frozen=True):
    """One request for an engine, as bytes: fields that we don't know survive.

    `model` is the canonical name (`serve.wire.names`), or "" where the route has none.
    `deadline_s` is what is left of the request's own time, or None.
    """

    method: str
    path: str
    body: bytes
    request_id: str
    model: str = ""
    deadline_s: float | None = None


class Head(Struct, frozen=True):
    """The first frame of an answer: the engine's status and content type."""

    status: int
    content_type: str


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


class Model(Struct, frozen=True):
    """One tag as an engine lists it: its digest, and its row of `/api/tags` as JSON.

    `is_dated`: its prompts may hold the date (`serve.wire.dates`). So is what isn't known yet.
    """

    digest: str
    row: bytes = b""
    is_dated: bool = True


class Report(Struct, frozen=True):
    """What one inference replica tells the shards about its engine, every `catalogue.poll_s`.

    `models` maps canonical names to what the engine lists now. `fingerprint` as in `Tail`.
    `utc_offset_s`: how far the engine's local time is ahead of UTC.
    """

    replica_id: str
    engine_version: str
    fingerprint: str
    models: Mapping[str, Model]
    utc_offset_s: int = 0


class CatalogueView(Struct, frozen=True):
    """What all replicas agree on: name → model; names they disagree on are left out.

    `fingerprint` is "" where replicas differ in it, and then nothing may be cached.
    `utc_offset_s` is None where they differ in it, and then nothing that holds the date may.
    `is_paused`: an operator has said that nothing is to be read from the cache or kept.
    """

    epoch: int
    fingerprint: str
    engine_version: str
    models: Mapping[str, Model]
    utc_offset_s: int | None = 0
    is_paused: bool = False


class Clock(Protocol):
    """Seconds since some fixed point; monotonic."""

    def __call__(self) -> float:
        """The time now."""
        ...
