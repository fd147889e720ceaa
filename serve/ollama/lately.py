"""How models were last called, so that one more call of the same kind changes nothing.

An Ollama reloads a model for a call with other options of the runner (`needsReload`,
server/sched.go), which `/api/ps` doesn't tell. So a canary repeats those of the last call that was
answered, and is sent only where we know them. Prompts are not kept.
"""

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

from serve.ports import Call

_RUNNER = frozenset(
    ("num_ctx", "num_batch", "num_gpu", "main_gpu", "use_mmap", "num_thread", "draft_num_predict")
)
_EMBEDDINGS = ("/api/embed", "/api/embeddings")


class _Body(Struct):
    options: dict[str, Any] | None = None
    shift: bool | None = None


_body = msgspec.json.Decoder(_Body)


class Manner(Struct, frozen=True):
    """What a call says about the runner: its options, and whether it is asked for embeddings."""

    embeds: bool = False
    options: Mapping[str, Any] = {}
    shift: bool | None = None

    def runs_as(self, other: "Manner") -> bool:
        """Whether the runner of one serves the other."""
        return (self.options, self.shift) == (other.options, other.shift)


def manner(call: Call) -> Manner:
    """Of one call. A body that can't be read is refused by the engine, and says nothing."""
    embeds = call.path in _EMBEDDINGS
    if b'"options"' not in call.body and b'"shift"' not in call.body:
        return Manner(embeds)
    try:
        body = _body.decode(call.body)
    except msgspec.DecodeError:
        return Manner(embeds)
    options = {name: value for name, value in (body.options or {}).items() if name in _RUNNER}
    return Manner(embeds, options, body.shift)


class Lately:
    """The calls at work in one engine, and how each model was last called with success."""

    def __init__(self) -> None:
        self._at_work: dict[int, tuple[str, Manner]] = {}
        self._number = 0
        self._known: dict[str, Manner] = {}

    def begun(self, call: Call) -> int:
        """A call was sent; its number."""
        self._number += 1
        self._at_work[self._number] = (call.model, manner(call))
        return self._number

    def answered(self, number: int) -> None:
        """It was answered well: its model is loaded as it wanted."""
        model, how = self._at_work[number]
        self._known[model] = how

    def ended(self, number: int) -> None:
        """It is over."""
        del self._at_work[number]

    def restarted(self, models: Mapping[str, Manner]) -> None:
        """The engine is new, and these were loaded."""
        self._known = dict(models)

    def known(self, model: str) -> Manner | None:
        """How that model was last called; None if not by us."""
        return self._known.get(model)

    def is_at_work(self, model: str) -> bool:
        """Whether a call of that model is."""
        return any(model == other for other, _ in self._at_work.values())

    def may_load(self) -> bool:
        """Whether a call at work may make the engine load something: then a canary might too."""
        return any(
            (known := self._known.get(model)) is None or not known.runs_as(how)
            for model, how in self._at_work.values()
        )
