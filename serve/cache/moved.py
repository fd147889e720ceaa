"""Entries that move between a shard and a file of another's (`serve.cache.bundle`), as messages.

Times are how long from now, not dates: what an entry has left doesn't depend on whose clock is
right. A message holds at most `ENTRIES_AT_ONCE`, and no more bytes than `BYTES_AT_ONCE` and one
entry: so long does a shard do nothing else.
"""

from typing import Annotated

from msgspec import Meta, Struct

ENTRIES_AT_ONCE = 128
BYTES_AT_ONCE = 1 << 20
LOST = -1

_Id = Annotated[int, Meta(ge=1, le=1 << 62)]
_Key = Annotated[bytes, Meta(min_length=16, max_length=32)]


class Moved(Struct, frozen=True, array_like=True, gc=False):
    """One entry. `left_s`: how long it has to live; `age_s`: how long ago it was stored."""

    key: _Key
    packed: bytes
    model: str
    digest: str
    fingerprint: str
    tenant: str
    left_s: float
    age_s: float


class Export(Struct, frozen=True, array_like=True, tag=40, gc=False):
    """The next entries, please → `Exported`. `cursor`: as told with the last ones; 0: begin, with
    those of this canonical name and tenant, where these are given."""

    id: _Id
    cursor: Annotated[int, Meta(ge=0)] = 0
    model: str = ""
    tenant: str = ""


class Restore(Struct, frozen=True, array_like=True, tag=41, gc=False):
    """Take these in, unless there was a purge since `generation` → `Restored`. 0: in any case."""

    id: _Id
    entries: list[Moved]
    generation: int = 0


class Exported(Struct, frozen=True, array_like=True, tag=50):
    """Some entries. `cursor`: for the next ones; 0: these were the last; `LOST`: the shard has
    given the place up, for others that were begun later."""

    id: int
    entries: list[Moved]
    cursor: int


class Restored(Struct, frozen=True, array_like=True, tag=51):
    """How many were `taken`, and how many were not, by reason (`serve.cache.holdings.Fate`)."""

    id: int
    counts: dict[str, int]
