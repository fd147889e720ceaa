"""Which of an engine's models may print the date in their prompts, and which date that is.

The list of models doesn't say, so each is shown once (`/api/show`) for each digest. Until that is
known, a model counts as one that prints it: at worst its answers are forgotten at midnight.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from msgspec import structs

from serve.errors import EngineError, EngineRefused
from serve.ports import Model
from serve.settings import InferenceSettings
from serve.wire.dates import may_print_date

SHOWN_WITHIN_S = 0.25
"""How long a report waits for the news of new models, so that their keys don't change soon after.
Whatever takes longer is in a later report."""
_SHOW_S = 10.0

Show = Callable[[str], Awaitable[tuple[str, str]]]
"""A model's template and Modelfile. Raises `EngineError`."""
Fresh = Callable[[], Awaitable[Mapping[str, Model]]]


class DatedModels:
    """Owns the task that asks the engine; `aclose` ends it."""

    def __init__(self, show: Show, fresh: Fresh) -> None:
        self._show = show
        self._fresh = fresh
        self._known: dict[str, bool] = {}
        self._task: asyncio.Task[None] | None = None

    async def marked(self, models: Mapping[str, Model]) -> Mapping[str, Model]:
        """The same models, each marked with what is known of it."""
        self._known = {
            m.digest: is_dated
            for m in models.values()
            if (is_dated := self._known.get(m.digest)) is not None
        }
        new = {name: m for name, m in models.items() if m.digest not in self._known}
        if new and (self._task is None or self._task.done()):
            self._task = asyncio.get_running_loop().create_task(self._learn(new))
            await asyncio.wait([self._task], timeout=SHOWN_WITHIN_S)
        return {
            name: structs.replace(model, is_dated=self._known.get(model.digest, True))
            for name, model in models.items()
        }

    async def aclose(self) -> None:
        """Ask no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _learn(self, new: Mapping[str, Model]) -> None:
        """Believe what is shown only of names that still stand for the same content afterwards."""
        shown: dict[str, bool] = {}
        with suppress(EngineError, TimeoutError):  # the next report asks again
            for name in new:
                async with asyncio.timeout(_SHOW_S):
                    shown[name] = await self._may_print_date(name)
        with suppress(EngineError):
            now = await self._fresh()
            for name, is_dated in shown.items():
                if name in now and now[name].digest == new[name].digest:
                    self._known[new[name].digest] = is_dated

    async def _may_print_date(self, name: str) -> bool:
        try:
            return may_print_date(*await self._show(name))
        except EngineRefused:
            return True  # what can't be shown


def utc_offset_s(inference: InferenceSettings, now: float) -> int:
    """By how many seconds the engine's local time is ahead of UTC at `now` (since the epoch).

    An engine inherits this process's zone unless `inference.env` has a TZ. An attached one is
    believed to be in the zone of this machine.
    """
    told = inference.env.get("TZ")
    zone = None
    if told is not None and inference.engine != "attach":
        try:
            zone = ZoneInfo(told.get_secret_value().removeprefix(":") or "UTC")
        except (LookupError, ValueError, OSError):
            return 0  # Go takes a zone that it doesn't know for UTC
    offset = datetime.fromtimestamp(now, UTC).astimezone(zone).utcoffset()
    return 0 if offset is None else round(offset.total_seconds())
