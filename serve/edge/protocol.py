"""What an ingress and its node's feeder say to each other, in frames (`serve.wire.framing`).

The ingress says `Hello`, and then of each answer that is asked for again and again, `Hot`. The
feeder says how long an answer may be, whenever that changes, and nothing else: it keeps what it
finds good, and an ingress that isn't heard loses nothing.
"""

from typing import Annotated

import msgspec
from msgspec import Meta, Struct

VERSION = 1
MAX_FRAME_BYTES = 4 << 20
MAX_HELLO_BYTES = 1 << 10

Address = tuple[str, int, bytes]
"""Host, port, and the secret that the feeder wants to hear."""


class Hello(Struct, frozen=True, array_like=True, tag=0, gc=False):
    """The first frame."""

    version: int
    secret: bytes


class Hot(Struct, frozen=True, array_like=True, tag=1, gc=False):
    """An answer of the near cache that was asked for `hits` times lately.

    `key`: at the edge (`serve.edge.key`). `shared_key`: in the shared store. `stored_at`: seconds
    since the epoch; `left_s`: how long it may still be given; `lifetime_s`: how old it may grow.
    `generation`: that of the near cache it was in. `tokens`, `gpu_ns`: what each hit saves.
    """

    key: Annotated[str, Meta(pattern="^[0-9A-F]{64}$")]
    kind: Annotated[str, Meta(pattern="^[0-9]{2}$")]
    body: bytes
    shared_key: bytes
    stored_at: float
    left_s: float
    lifetime_s: int
    model: str
    digest: str
    fingerprint: str
    generation: int
    tenant: str
    tokens: int
    gpu_ns: int
    hits: int


class Wanted(Struct, frozen=True, array_like=True, tag=20, gc=False):
    """Answers up to so many bytes are wanted; 0: none, there is no edge now."""

    max_bytes: int


decode_told = msgspec.msgpack.Decoder(Hello | Hot).decode
decode_wanted = msgspec.msgpack.Decoder(Wanted).decode
