"""On which day an answer is true, where its prompt may hold the date (`serve.wire.dates`).

Such a question has the date in its key, so after midnight it is another one. What is kept ready by
a request's bytes knows no key, so it ends with the day; and an answer that came on another day than
it was asked for on is not kept, since nobody knows on which of them its prompt was made.
"""

from collections.abc import Mapping
from math import inf
from typing import Any

from serve.cache.catalogue import Catalogue
from serve.cache.outcome import Question
from serve.cache.policy import CHAT, GENERATE
from serve.ports import Clock
from serve.wire import dates


class Days:
    """The engines' days, by the zone that the catalogue tells and the clock `now` (epoch, s)."""

    def __init__(self, catalogue: Catalogue, now: Clock) -> None:
        self._catalogue = catalogue
        self._now = now

    def of(self, route: str, native: Mapping[str, Any], model: str) -> str | None:
        """The date for the key; "" where it means nothing, None where engines differ about it.

        An embedding's input meets no template; a request may bring a template of its own.
        """
        if route not in (GENERATE, CHAT):
            return ""
        known = self._catalogue.view.models.get(model)
        if known is None or known.is_dated or dates.prints_date(native.get("template")):
            return self._today()
        return ""

    def is_over(self, question: Question) -> bool:
        """Is it another day than when this was asked?"""
        return question.day != "" and question.day != self._today()

    def left_s(self, question: Question) -> float:
        """How long an answer stays true for the date's sake."""
        offset_s = self._catalogue.view.utc_offset_s
        if question.day == "" or offset_s is None:
            return inf
        return dates.until_midnight_s(self._now(), offset_s)

    def _today(self) -> str | None:
        offset_s = self._catalogue.view.utc_offset_s
        return None if offset_s is None else dates.day(self._now(), offset_s)
