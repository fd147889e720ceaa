"""How much context a model can have, and how much it says it wants."""

import re
from collections.abc import Mapping
from typing import Any

from msgspec import Struct

_OWN = re.compile(r"^num_ctx\s+(\d+)\s*$", re.MULTILINE)


class Contexts(Struct, frozen=True):
    """In tokens. `longest`: what it was trained for. `own`: its PARAMETER num_ctx. 0: unknown."""

    longest: int
    own: int


def contexts_of(model_info: Mapping[str, Any] | None, parameters: str | None) -> Contexts:
    """From `model_info` and `parameters` of `/api/show`."""
    info = model_info or {}
    longest = info.get(f"{info.get('general.architecture', '')}.context_length", 0)
    own = _OWN.search(parameters or "")
    return Contexts(longest if isinstance(longest, int) else 0, int(own[1]) if own else 0)
