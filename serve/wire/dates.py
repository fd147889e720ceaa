"""The date in prompts: which templates print it, and which day it is where the engine runs.

A template prints the local date of the machine that renders it: Ollama's own language by
`currentDate`, Jinja by `strftime_now` or a `date_string` that its caller fills in. So one request
has another prompt after midnight, and what such a template made may be told again on the same day
only. The day is that of the engine's zone, by the clock of who asks: the nodes' clocks agree, or
answers of the seconds in which they don't carry the neighbour's date.
"""

import re
from datetime import UTC, datetime, timedelta, timezone

_PRINTS_DATE = re.compile(r"current_?date|strftime_now|date_string", re.IGNORECASE)
_RENDERER = re.compile(r"^\s*RENDERER\s", re.MULTILINE | re.IGNORECASE)
_HIDDEN = frozenset({"", "{{ .Prompt }}"})


def prints_date(template: object) -> bool:
    """Does a template name the date?"""
    return isinstance(template, str) and _PRINTS_DATE.search(template) is not None


def may_print_date(template: str, modelfile: str) -> bool:
    """May the prompts of a model that `/api/show` describes so hold the date?

    Yes, too, where the prompt is made by what isn't shown: a renderer within Ollama, or the chat
    template in the GGUF of a model that has none in its Modelfile.
    """
    is_hidden = template.strip() in _HIDDEN or _RENDERER.search(modelfile) is not None
    return is_hidden or prints_date(template)


def day(now: float, utc_offset_s: int) -> str:
    """The local date at `now` (seconds since the epoch), as YYYY-MM-DD."""
    return _local(now, utc_offset_s).date().isoformat()


def until_midnight_s(now: float, utc_offset_s: int) -> float:
    """Seconds until that date ends."""
    local = _local(now, utc_offset_s)
    today = local.replace(hour=0, minute=0, second=0, microsecond=0)
    return (today + timedelta(days=1) - local).total_seconds()


def _local(now: float, utc_offset_s: int) -> datetime:
    zone = timezone(timedelta(seconds=utc_offset_s))
    return datetime.fromtimestamp(now, UTC).astimezone(zone)
