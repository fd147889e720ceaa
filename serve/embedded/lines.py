"""What the lines of generate and chat have in common."""

import time
from collections.abc import Mapping, Sequence

from serve.embedded.completion import Piece
from serve.embedded.replies import Line
from serve.wire.gojson import timestamp

NEVER = "0001-01-01T00:00:00Z"
"""Go's zero time: what an answer without a single line says."""


def head_of(model: str) -> Line:
    """How every line begins; `model` in the caller's spelling."""
    return {"model": model, "created_at": timestamp(time.time_ns())}


def logprobs_of(piece: Piece) -> Line:
    """The log probabilities, where there are any."""
    return {"logprobs": piece.logprobs} if piece.logprobs else {}


def counts_of(piece: Piece, took: Mapping[str, int]) -> Line:
    """Durations and counts of the last line; Go leaves out zeros."""
    final = piece.final
    if final is None:
        return {}
    counts = {
        **took,
        "prompt_eval_count": final.prompt_eval_count,
        "prompt_eval_duration": final.prompt_eval_duration,
        "eval_count": final.eval_count,
        "eval_duration": final.eval_duration,
    }
    return {name: count for name, count in counts.items() if count}


def joined(lines: Sequence[Line], texts: Mapping[str, object]) -> Line:
    """The last line with `texts` in their place, and the log probabilities of all lines."""
    whole: Line = {}
    for name, value in lines[-1].items():
        if name in texts:
            whole |= texts
        elif name not in ("thinking",):
            whole[name] = value
    logprobs = [logprob for line in lines for logprob in line.get("logprobs", ())]
    return whole | ({"logprobs": logprobs} if logprobs else {})
