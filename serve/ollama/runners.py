"""What an engine's runner of a model is known by: its weights, and how much context it has.

An Ollama runs names that have the same weights in one runner, which `/api/ps` lists under the name
that it was loaded for (its scheduler's key is the path of the weights: server/sched.go).
"""

import re
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from msgspec import Struct

_OWN = re.compile(r"^num_ctx\s+(\d+)\s*$", re.MULTILINE)


_WEIGHTS = re.compile(r"^(?:FROM|ADAPTER) .+$", re.MULTILINE)


class Shown(Struct, frozen=True):
    """What `/api/show` tells of a model's runner.

    `weights`: the same for all models that one runner serves. In tokens, 0 if unknown: `longest`,
    what it was trained for; `own`, its PARAMETER num_ctx.
    """

    weights: str
    longest: int
    own: int


def shown(
    model_info: Mapping[str, Any] | None, parameters: str | None, modelfile: str | None
) -> Shown:
    """From those fields of `/api/show`."""
    info = model_info or {}
    weights = "\n".join(_WEIGHTS.findall(modelfile or ""))
    longest = info.get(f"{info.get('general.architecture', '')}.context_length", 0)
    own = _OWN.search(parameters or "")
    return Shown(
        sha256(weights.encode()).hexdigest()[:16] if weights else "",
        longest if isinstance(longest, int) else 0,
        int(own[1]) if own else 0,
    )
