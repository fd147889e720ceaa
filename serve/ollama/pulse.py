"""What an engine's client tells of the calls that it carries: the shell around `Vitals`.

Bytes count as they come from the engine's connection, however slowly their reader takes them.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Self

from serve.ollama.lately import Lately
from serve.ollama.vitals import Vitals
from serve.ports import COMPUTED, Call, Clock
from serve.settings import InferenceSettings


class Pulse:
    """The signs of life of one replica's engines, one after the other."""

    def __init__(self, vitals: Vitals, clock: Clock) -> None:
        self.vitals = vitals
        self.lately = Lately()
        self.clock = clock

    @classmethod
    def of(cls, inference: InferenceSettings, clock: Clock) -> Self:
        """With the limits that the settings name."""
        after_s, timeout_s = inference.canary_after_s, inference.canary_timeout_s
        return cls(Vitals(after_s, timeout_s, inference.stall_timeout_s, clock()), clock)

    @contextmanager
    def carrying(self, call: Call) -> Iterator[Callable[[int], None] | None]:
        """Around a call; gives what is to be told the status at each piece, None if it has no slot.

        Only what the model computes is a sign: an Ollama lists and pulls while it is wedged.
        """
        if call.path not in COMPUTED:
            yield None
            return
        number, is_mute = self.lately.begun(call), True
        self.vitals.begun(self.clock())

        def beat(status: int) -> None:
            nonlocal is_mute
            self.vitals.beat(self.clock())
            if is_mute and status == 200:
                self.lately.answered(number)
            is_mute = False

        try:
            yield beat
        finally:
            self.lately.ended(number)
            self.vitals.ended(self.clock(), is_mute=is_mute)

    @contextmanager
    def held(self) -> Iterator[None]:
        """While a reader keeps the engine waiting."""
        self.vitals.held(1, self.clock())
        try:
            yield
        finally:
            self.vitals.held(-1, self.clock())
