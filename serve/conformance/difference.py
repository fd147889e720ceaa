"""One place where an answer differs from the recorded one, and what may be said of its two values.

The functions below are what `permitted.Rule.free` takes: given the recorded value and the answer's,
is this a difference of the kind that the rule means?
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Free = Callable[[Any, Any], bool]

_ID = re.compile(r"([a-z]+[-_])[0-9A-Za-z_]+")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)")
_DIGEST = re.compile(r"(sha256[:-])?[0-9a-f]{64}")
_HEX = re.compile(r"\b[0-9a-f]{12,64}\b")
_FOLDER = re.compile(r"/\S*/(blobs|manifests)/")
_LONG_AGO = 1_600_000_000
"""Seconds; no server of Ollama's API is that old."""


@dataclass(frozen=True)
class Difference:
    """`where`: status, framing, header.NAME, or a path into the body such as `line.response`.
    `kind`: value, type, keys, missing, extra, length, order, vector, norm, sum, unreadable.
    `before` and `after` are the two values, where there are two, or the kinds of a stream's items.
    """

    where: str
    kind: str
    text: str
    before: Any = field(default=None, compare=False)
    after: Any = field(default=None, compare=False)

    def __str__(self) -> str:
        return f"{self.where}: {self.kind}: {self.text}"


def anything(_before: Any, _after: Any) -> bool:
    """Nothing is known of it."""
    return True


def among(*values: Any) -> Free:
    """One of these values for another of them."""
    return lambda before, after: before in values and after in values


def becomes(*values: Any) -> Free:
    """Whatever it was, now it is one of these values."""
    return lambda _, after: after in values


def begins(text: str) -> Free:
    """Whatever it was, now it begins so."""
    return lambda _, after: isinstance(after, str) and after.startswith(text)


def spoken(before: Any, after: Any) -> bool:
    """Text for text: what was silent stays so, and what wasn't says something."""
    return isinstance(after, str) and bool(before) == bool(after)


def counted(before: Any, after: Any) -> bool:
    """A number above zero for another."""
    return all(_number(value) and value > 0 for value in (before, after))


def likely(before: Any, after: Any) -> bool:
    """A logarithm of a probability for another."""
    return all(_number(value) and value <= 0 for value in (before, after))


def of_one_kind(before: Any, after: Any) -> bool:
    """An id for another with the same prefix."""
    found = [_ID.fullmatch(value) if isinstance(value, str) else None for value in (before, after)]
    return all(found) and len({match[1] for match in found if match}) == 1


def moments(before: Any, after: Any) -> bool:
    """A time for another that is written in the same way."""
    if isinstance(before, str) and isinstance(after, str):
        return bool(_TIME.fullmatch(before) and _TIME.fullmatch(after))
    return all(_number(value) and value > _LONG_AGO for value in (before, after))


def digests(before: Any, after: Any) -> bool:
    """A SHA-256 for another."""
    texts = isinstance(before, str) and isinstance(after, str)
    return texts and bool(_DIGEST.fullmatch(before) and _DIGEST.fullmatch(after))


def said_of_another_file(before: Any, after: Any) -> bool:
    """The same words but for digests and the folder of a store; others may stand around them."""
    return isinstance(after, str) and _placeless(str(before)) in _placeless(after)


def headed_alike(before: Any, after: Any) -> bool:
    """Texts with the same first line."""
    return isinstance(after, str) and str(before).split("\n")[0] == after.split("\n")[0]


def ended_by_error(before: Any, after: Any) -> bool:
    """A stream of the same items, and then the dialect's error."""
    more = [str(kind).split(";")[0] for kind in after[len(before) :]]
    return after[: len(before)] == before and more in (
        ["error"],
        ["error", "response.failed"],
    )


def _placeless(text: str) -> str:
    return _HEX.sub("…", _FOLDER.sub(r"/\1/", text))


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
