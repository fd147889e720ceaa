"""What an answer is worth: what it took to make, which every hit on it saves.

Read off what the engine itself says at the answer's end (api/types.go, `Metrics`): tokens are
`prompt_eval_count` and `eval_count`, the engine's time `prompt_eval_duration` and `eval_duration`.
An answer to `/api/embed` tells no such durations, and counts by its `total_duration`; a vector that
was made in a call with others counts by its share of that. Loading the model isn't counted: the
next request would have found it loaded. Where the engine says nothing, it is nothing.

An engine's time is the time of a GPU if the engine has one; `slots` requests that are computed at
once each count their own, so what several of them saved adds up to more than one clock's.
"""

from collections.abc import Iterable, Sequence
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from serve.cache import vectors
from serve.cache.entry import VECTOR_TYPE, Entry, Worth
from serve.cache.vectors import Vector

NOTHING = Worth(0, 0)

_Tokens = Annotated[int, Meta(ge=0, le=1 << 32)]
_Nanoseconds = Annotated[int, Meta(ge=0, le=1 << 45)]  # ten hours: more is no answer's time

_NS_PER_MS, _KIB = 1e6, 1024
_LEAST_KEPT_S = 60.0


class _End(Struct):
    """What a native answer's last line, or one body, says of its making."""

    prompt_eval_count: _Tokens = 0
    eval_count: _Tokens = 0
    prompt_eval_duration: _Nanoseconds = 0
    eval_duration: _Nanoseconds = 0
    total_duration: _Nanoseconds = 0


_end = msgspec.json.Decoder(_End).decode


def told(lines: Sequence[bytes]) -> Worth:
    """What the native lines of an answer, or its one body, say at their end."""
    try:
        end = _end(lines[-1])
    except (IndexError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return NOTHING
    generated_ns = end.prompt_eval_duration + end.eval_duration
    is_embedding = not end.eval_count
    return Worth(
        end.prompt_eval_count + end.eval_count,
        end.total_duration if is_embedding and not generated_ns else generated_ns,
    )


def worth_of(entry: Entry) -> Worth:
    """What a hit on this entry saves."""
    if entry.worth is not None:
        return entry.worth
    if entry.content_type == VECTOR_TYPE:
        return of_vectors([vectors.unpack(entry.lines)])
    return told(entry.lines)


def of_vectors(made: Iterable[Vector]) -> Worth:
    """What it took to make all of these."""
    tokens = gpu_ns = 0
    for vector in made:
        tokens += vector.tokens
        gpu_ns += vector.total_duration // vector.inputs
    return Worth(tokens, gpu_ns)


def is_worth_it(gpu_ns: int, packed_bytes: int, min_gpu_ms_per_kib: float) -> bool:
    """Does an answer save enough for the room that it takes up?

    Never less so for having taken longer, never more so for being larger.
    """
    return gpu_ns * _KIB >= min_gpu_ms_per_kib * _NS_PER_MS * packed_bytes


def kept_s(gpu_ns: int, packed_bytes: int, full_gpu_ms_per_kib: float, longest_s: float) -> float:
    """How long an answer stays in the shared store: less than the longest if it saves little.

    It only makes room earlier, as eviction does. How long an answer may be given is another matter,
    and the same for all: a near cache, which has its own bound, may give it for all of that time.
    """
    full = full_gpu_ms_per_kib * _NS_PER_MS * packed_bytes
    if gpu_ns * _KIB >= full:
        return longest_s
    return min(longest_s, max(_LEAST_KEPT_S, longest_s * (gpu_ns * _KIB / full)))
