"""What ingresses, replicas and the scheduler of a pool say to each other over a socket.

A connection begins with `Hello`, which the scheduler answers with `Welcome` or by closing. After
that an ingress asks (`Ask`) and hears, under the same id: `Granted`, at once or after `Queued`; or
`Refused`. `Release` ends a lease, or gives up a place in the line. A replica tells its `Standing`.
Either end closes a connection whose other end has been silent for too long; `Beat` breaks silence.

The connection carries the leases: with it they end. Whoever connects again and still has some says
so (`Hold`), with the ids that they had.
"""

from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from serve.fleet.placement import State
from serve.fleet.replica import Standing
from serve.fleet.schedule import Outcome

VERSION = 1
MAX_FRAME_BYTES = 4 << 20
"""Above any report; it bounds a broken peer's claim."""
MAX_HELLO_BYTES = 1 << 10

Id = Annotated[int, Meta(ge=1, le=1 << 62)]
Context = Annotated[int, Meta(ge=0, le=1 << 40)]
"""Tokens; 0: whatever the model is loaded with if nothing is said."""


class Hello(Struct, frozen=True, array_like=True, tag=0, gc=False):
    """The first frame of a connection. `serves`: am I an ingress, which has a share?"""

    version: int
    secret: bytes
    serves: bool


class Ask(Struct, frozen=True, array_like=True, tag=1, gc=False):
    """I want a slot, and wait for it so long (`schedule.Wanted`)."""

    id: Id
    model: str
    num_ctx: Context
    wait_s: Annotated[float, Meta(ge=0)]
    tenant: str = ""
    affinity: str = ""


class Release(Struct, frozen=True, array_like=True, tag=2, gc=False):
    """I want it no more; nothing is said in return."""

    id: Id
    outcome: Outcome


class Hold(Struct, frozen=True, array_like=True, tag=3, gc=False):
    """I have this lease from before; nothing is said in return."""

    id: Id
    replica: str
    model: str
    num_ctx: Context


class Stands(Struct, frozen=True, array_like=True, tag=4):
    """This is how I am; nothing is said in return."""

    standing: Standing


class Beat(Struct, frozen=True, array_like=True, tag=5, gc=False):
    """I am here → `Beat`."""


class Running(Struct, frozen=True, array_like=True, tag=6):
    """I, an ingress, can call these replicas and no others; nothing is said in return."""

    replicas: frozenset[str]


class Welcome(Struct, frozen=True, array_like=True, tag=20, gc=False):
    """The secret was right."""

    version: int


class Granted(Struct, frozen=True, array_like=True, tag=21, gc=False):
    """Go to this replica (`schedule.Granted`)."""

    id: int
    replica: str
    state: State


class Queued(Struct, frozen=True, array_like=True, tag=22, gc=False):
    """Wait (`schedule.Queued`)."""

    id: int
    position: int
    state: State


class Refused(Struct, frozen=True, array_like=True, tag=23, gc=False):
    """No (`schedule.Refused`)."""

    id: int
    is_late: bool
    retry_after_s: int


class Share(Struct, frozen=True, array_like=True, tag=24, gc=False):
    """The pool's slots, and the ingresses that share them if I am gone."""

    slots: int
    ingresses: int


Question = Hello | Ask | Release | Hold | Stands | Beat | Running
"""What the scheduler may be told."""

Answer = Welcome | Granted | Queued | Refused | Share | Beat
"""What it may say."""

decode_question = msgspec.msgpack.Decoder(Question).decode
decode_answer = msgspec.msgpack.Decoder(Answer).decode
