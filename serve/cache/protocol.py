"""What ingresses, replicas and shards say to each other over a socket.

Messages travel in frames (`serve.wire.framing`). A connection begins with
`Hello`, which the shard answers with `Welcome` or by closing. Then either side may send frames at
any time; an answer carries the `id` of what it answers, and answers may come in any order. What the
shard sends of its own accord has the id 0.

`Join` takes a seat in a flight (`serve.cache.flights`): all that either side says of it afterwards
carries the `id` of the `Join`.

Whatever is malformed, too long or out of turn ends the connection and nothing else: a connection is
cheap, and its other end comes back.
"""

from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from serve.cache.flights import Ending
from serve.cache.moved import Export, Exported, Restore, Restored
from serve.ports import CatalogueView, Report
from serve.wire.framing import MALFORMED as MALFORMED
from serve.wire.framing import Frames as Frames
from serve.wire.framing import frame as frame
from serve.wire.framing import write as write

VERSION = 1
MAX_FRAME_BYTES = 80 << 20
"""Above any entry (`entry.MAX_UNPACKED_BYTES`) or catalogue; it bounds a broken peer's claim."""
MAX_HELLO_BYTES = 1 << 10
"""Before a peer has said the secret, it can't make us hold more than this."""

Id = Annotated[int, Meta(ge=1, le=1 << 62)]
Key = Annotated[bytes, Meta(min_length=16, max_length=32)]
Ttl = Annotated[float, Meta(gt=0)]
Count = Annotated[int, Meta(ge=0, le=1 << 62)]

MAX_ROWS = 512
"""So many pairs of model and tenant are counted apart (`serve.cache.ledger`), and `OTHER`."""


class Hello(Struct, frozen=True, array_like=True, tag=0, gc=False):
    """The first frame of a connection."""

    version: int
    secret: bytes


class Get(Struct, frozen=True, array_like=True, tag=1, gc=False):
    """Is there an answer? → `Hit` or `Miss`. If `is_quiet`, it is counted as neither."""

    id: Id
    key: Key
    is_quiet: bool = False


class Put(Struct, frozen=True, array_like=True, tag=2, gc=False):
    """Here is an answer; nothing is said in return.

    `generation`: the shard's own, as last told (`Renewed`) when the answer was asked for; an answer
    that was asked for before a purge is refused. 0: kept whenever it was asked for.
    """

    key: Key
    packed: bytes
    model: str
    digest: str
    fingerprint: str
    ttl_s: Ttl
    tenant: str = ""
    generation: int = 0


class Reported(Struct, frozen=True, array_like=True, tag=3):
    """What an inference replica sees; nothing is said in return."""

    report: Report


class Subscribe(Struct, frozen=True, array_like=True, tag=4, gc=False):
    """Tell me the view, now (→ `Viewed`) and whenever it changes (`Viewed` with the id 0).

    `serves`: am I an ingress? Who only looks on is not counted as a subscriber. `lingers`: what I
    have set up serves on when I am gone, until my lease ends (`serve.edge`)."""

    id: Id
    serves: bool = True
    lingers: bool = False


class Renew(Struct, frozen=True, array_like=True, tag=5, gc=False):
    """Is the view still the one you told me? → `Renewed`. Also shows that the shard is alive."""

    id: Id


class Ask(Struct, frozen=True, array_like=True, tag=6, gc=False):
    """What do you hold, and what have you done? → `Stats`."""

    id: Id


class Purge(Struct, frozen=True, array_like=True, tag=7, gc=False):
    """Drop the entries that fit all that is said here, or, if nothing is, all → `Purged`, when no
    ingress serves a near answer from before. With `dry_run` they are only counted, at once.

    `older_than_s`: stored at least so many seconds ago.
    """

    id: Id
    model: str = ""
    tenant: str = ""
    key: Annotated[bytes, Meta(max_length=32)] = b""
    older_than_s: Annotated[float, Meta(ge=0)] = 0.0
    dry_run: bool = False


class Join(Struct, frozen=True, array_like=True, tag=8, gc=False):
    """Is there an answer, or who generates it? → `Hit`, `Lead`, `Follow`, or `Miss`: generate it
    yourself, tell nobody. Without `may_read` no stored answer will do."""

    id: Id
    key: Key
    may_read: bool


class Fill(Struct, frozen=True, array_like=True, tag=9, gc=False):
    """From a leader: the next piece of the answer; an empty one shows that it lives."""

    id: Id
    piece: bytes


class Leave(Struct, frozen=True, array_like=True, tag=10, gc=False):
    """From a leader: its own listeners have left. It goes on until it hears `Closed`."""

    id: Id


class Finish(Struct, frozen=True, array_like=True, tag=11, gc=False):
    """From a leader: how its flight ended. From a follower: it leaves."""

    id: Id
    ending: Ending


class Taken(Struct, frozen=True, array_like=True, tag=12, gc=False):
    """From a subscriber: the change of this number is taken in, with all before it; nothing is said
    in return."""

    change: int


class Confirm(Struct, frozen=True, array_like=True, tag=13, gc=False):
    """Tell me when every ingress has taken in what has changed up to now → `Confirmed`."""

    id: Id


class Attend(Struct, frozen=True, array_like=True, tag=14, gc=False):
    """I am an ingress, and this connection stands for me as long as I am; nothing is said in
    return. To shards that are no authority: who subscribes is known already."""


class Pause(Struct, frozen=True, array_like=True, tag=42, gc=False):
    """Read nothing and keep nothing, or do so again → `Confirmed`, when every ingress does."""

    id: Id
    is_paused: bool


class Row(Struct, frozen=True, array_like=True):
    """What the requests of one model and tenant came to.

    `answers`: how many by kind of verdict (`hit`, `miss`, `bypass`), then by tier or reason.
    `tokens`, `gpu_ns`: what those that memory answered saved (`serve.cache.worth`).
    """

    model: str
    tenant: str
    answers: dict[str, dict[str, Count]]
    tokens: Count = 0
    gpu_ns: Count = 0


class Counted(Struct, frozen=True, array_like=True, tag=19):
    """From an ingress: what its requests came to since the last time; nothing is said in return."""

    rows: Annotated[list[Row], Meta(max_length=MAX_ROWS + 1)]


class Welcome(Struct, frozen=True, array_like=True, tag=20, gc=False):
    """The secret was right."""

    version: int


class Hit(Struct, frozen=True, array_like=True, tag=21, gc=False):
    """Here is the answer."""

    id: int
    packed: bytes


class Miss(Struct, frozen=True, array_like=True, tag=22, gc=False):
    """There is none."""

    id: int


class Viewed(Struct, frozen=True, array_like=True, tag=23):
    """The view. `generation` differs from the last one told if near answers must be forgotten:
    there was a purge, or this is another shard than before, which can't know whether there was.

    `change`: the number of this change, for `Taken`."""

    id: int
    view: CatalogueView
    generation: int
    change: int = 0


class Renewed(Struct, frozen=True, array_like=True, tag=24, gc=False):
    """The view's epoch and the generation, now."""

    id: int
    epoch: int
    generation: int = 0


class Stats(Struct, frozen=True, array_like=True, tag=25):
    """A shard's holdings, and its counts since it started.

    `flights`: generations that run now; `led`, `joined`: seats given, to leaders and to followers.
    `tenants`: the entries and bytes that each holds. `counted`: what ingresses told it.
    """

    id: int
    entries: int
    held_bytes: int
    max_bytes: int
    hits: int
    misses: int
    stored: int
    refused: dict[str, int]
    evicted: dict[str, int]
    replicas: int
    subscribers: int
    flights: int = 0
    led: int = 0
    joined: int = 0
    tenants: dict[str, tuple[int, int]] = {}
    is_paused: bool = False
    counted: list[Row] = []


class Purged(Struct, frozen=True, array_like=True, tag=26, gc=False):
    """How many entries were dropped, or would be, and what they weigh."""

    id: int
    entries: int
    held_bytes: int = 0


class Lead(Struct, frozen=True, array_like=True, tag=27, gc=False):
    """Generate it, and show at least every third of `lease_s` that you live. May be followed by
    `Closed`: nobody follows any more, or the lease has ended."""

    id: int
    lease_s: float


class Follow(Struct, frozen=True, array_like=True, tag=28, gc=False):
    """Somebody generates it: `Pieces` come, from the first one on, and at last `Closed`."""

    id: int


class Pieces(Struct, frozen=True, array_like=True, tag=29, gc=False):
    """What the leader has sent since the last ones."""

    id: int
    pieces: list[bytes]


class Closed(Struct, frozen=True, array_like=True, tag=30, gc=False):
    """The last word on a seat."""

    id: int
    ending: Ending


class Confirmed(Struct, frozen=True, array_like=True, tag=31, gc=False):
    """Every ingress has taken it in, or its lease on what was before has ended."""

    id: int


Question = (
    Hello
    | Get
    | Put
    | Reported
    | Subscribe
    | Renew
    | Ask
    | Purge
    | Join
    | Fill
    | Leave
    | Finish
    | Taken
    | Confirm
    | Attend
    | Pause
    | Export
    | Restore
    | Counted
)
"""What a shard may be told."""

Found = Hit | Miss | Lead | Follow
"""The answers to `Join`; `Get` has the first two."""

News = Found | Pieces | Closed
"""What a seat hears."""

Answer = Welcome | Viewed | Renewed | Stats | Purged | Confirmed | Exported | Restored | News
"""What a shard may say."""

decode_question = msgspec.msgpack.Decoder(Question).decode
decode_answer = msgspec.msgpack.Decoder(Answer).decode
