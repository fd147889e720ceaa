"""Telling where an answer differs from the recorded one.

Compared: status, the headers that a client may act on, framing, and bodies as JSON: keys and their
order, types, lengths, and every value that `permitted.py` doesn't free. What of a stream is one
line or one event counts, not how HTTP chunks cut it. Vectors match by their direction.
"""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from serve.conformance.permitted import OLLAMA, Profile, Rule, permission
from serve.conformance.replay import Answer, Case

_HEADERS = (
    "content-type",
    "allow",
    "location",
    "vary",
    "cache-control",
    "access-control-allow-origin",
    "access-control-allow-methods",
    "access-control-allow-headers",
    "access-control-max-age",
)
_VECTOR = 8
_COSINE = 0.9999


@dataclass(frozen=True)
class Difference:
    """`where`: status, framing, header.NAME, or a path into the body such as `line.response`.
    `kind`: value, type, keys, missing, extra, length, order, vector, unreadable."""

    where: str
    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.where}: {self.kind}: {self.text}"


@dataclass(frozen=True)
class Verdict:
    """What differs and may not, a line each, and what differs and may, with the rule."""

    faults: list[str]
    permitted: list[tuple[Difference, Rule]]


def judge(case: Case, answer: Answer, profile: Profile = OLLAMA) -> Verdict:
    """Hold an answer against the recorded one; `profile` is who answered."""
    faults: dict[str, None] = {}
    permitted: dict[Difference, Rule] = {}
    for difference in _all(case.recorded, answer, profile):
        rule = permission(case.id, difference.where, difference.kind, profile)
        if rule:
            permitted[difference] = rule
        else:
            faults[str(difference)] = None
    return Verdict(list(faults), list(permitted.items()))


def differences(case: Case, answer: Answer, profile: Profile = OLLAMA) -> list[str]:
    """What differs and isn't permitted there, a line each."""
    return judge(case, answer, profile).faults


def _all(recorded: Answer, answer: Answer, profile: Profile) -> Iterator[Difference]:
    if recorded.status != answer.status:
        yield Difference(
            "status", "value", f"{recorded.status} → {answer.status} {answer.body[:200]}"
        )
    if not profile.reframes and recorded.framing != answer.framing:
        yield Difference("framing", "value", f"{recorded.framing} → {answer.framing}")
    yield from _headers(recorded, answer)
    yield from _bodies(recorded, answer)


def _headers(recorded: Answer, answer: Answer) -> Iterator[Difference]:
    for name in _HEADERS:
        before, after = _header(recorded, name), _header(answer, name)
        if before != after:
            yield Difference(f"header.{name}", "value", f"{before} → {after}")


def _header(answer: Answer, name: str) -> list[str]:
    return [value for key, value in answer.headers if key.lower() == name]


def _bodies(recorded: Answer, answer: Answer) -> Iterator[Difference]:
    if not recorded.body or not answer.body:
        if bool(recorded.body) != bool(answer.body):
            yield Difference("body", "length", f"{len(recorded.body)} → {len(answer.body)} bytes")
        return
    try:
        yield from list(_read(recorded, answer))
    except (ValueError, KeyError) as error:  # a server that answers HTML, say
        yield Difference("body", "unreadable", f"{error!r}: {answer.body[:200]!r}")


def _read(recorded: Answer, answer: Answer) -> Iterator[Difference]:
    kind = (_header(recorded, "content-type") or [""])[0]
    if kind.startswith("application/x-ndjson"):
        yield from _sequences(_lines(recorded.body), _lines(answer.body), "line")
    elif kind.startswith("text/event-stream"):
        yield from _sequences(_events(recorded.body), _events(answer.body), "event")
    elif kind.startswith("application/json"):
        yield from _values(json.loads(recorded.body), json.loads(answer.body), "body")
    elif recorded.body != answer.body:
        yield Difference("body", "value", f"{recorded.body!r} → {answer.body!r}")


def _lines(body: str) -> list[Any]:
    return [json.loads(line) for line in body.splitlines()]


def _events(body: str) -> list[Any]:
    return [_event(event) for event in body.split("\n\n") if event]


def _event(text: str) -> Any:
    """An event as its data; where it has a name, with that."""
    fields = dict(line.split(": ", 1) for line in text.splitlines())
    data = fields["data"] if fields["data"] == "[DONE]" else json.loads(fields["data"])
    return {"event": fields["event"], "data": data} if "event" in fields else data


def _sequences(recorded: list[Any], answer: list[Any], name: str) -> Iterator[Difference]:
    """Streams of the same kinds of items in the same order; how many of a kind is free."""
    before, after = _runs(recorded), _runs(answer)
    if [kind for kind, _ in before] != [kind for kind, _ in after]:
        shown = [kind for kind, _ in before], [kind for kind, _ in after]
        yield Difference(name, "length", f"{shown[0]} → {shown[1]}")
        return
    for (_, models), (_, items) in zip(before, after, strict=True):
        for item in items:
            found = [list(_values(model, item, name)) for model in models]
            yield from min(found, key=len)


def _runs(items: list[Any]) -> list[tuple[str, list[Any]]]:
    """Items in a row that have the same keys, together."""
    runs: list[tuple[str, list[Any]]] = []
    for item in items:
        kind = _kind(item)
        if not runs or runs[-1][0] != kind:
            runs.append((kind, []))
        runs[-1][1].append(item)
    return runs


def _kind(item: Any) -> str:
    if not isinstance(item, dict):
        return repr(item)
    if "event" in item:
        return str(item["event"])
    choices: list[dict[str, Any]] = item.get("choices") or []
    inner = item.get("message") or (choices[0].get("delta") if choices else None) or {}
    finish = [choice.get("finish_reason") is not None for choice in choices]
    return f"{','.join(item)};{','.join(inner)};{item.get('done')};{finish}"


def _values(recorded: Any, answer: Any, where: str) -> Iterator[Difference]:
    for applies, compare in _COMPARE:
        if applies(recorded, answer):
            yield from compare(recorded, answer, where)
            return
    if _type(recorded) != _type(answer):
        yield Difference(where, "type", f"{_type(recorded)} → {_type(answer)}")
    elif recorded != answer:
        yield Difference(where, "value", f"{recorded!r} → {answer!r}"[:400])


def _objects(recorded: dict[str, Any], answer: dict[str, Any], where: str) -> Iterator[Difference]:
    if sorted(recorded) == sorted(answer) and list(recorded) != list(answer):
        yield Difference(where, "keys", f"{list(recorded)} → {list(answer)}")
    for key in recorded:
        if key not in answer:
            yield Difference(f"{where}.{key}", "missing", "")
        else:
            yield from _values(recorded[key], answer[key], f"{where}.{key}")
    for key in answer:
        if key not in recorded:
            yield Difference(f"{where}.{key}", "extra", f"{answer[key]!r}"[:200])


def _named(recorded: list[Any], answer: list[Any], where: str) -> Iterator[Difference]:
    """Lists of things with names: the order of those that both have counts too."""
    before = {item["name"]: item for item in recorded}
    after = {item["name"]: item for item in answer}
    for name, item in before.items():
        if name in after:
            yield from _values(item, after[name], f"{where}[]")
        else:
            yield Difference(where, "missing", name)
    for name in after.keys() - before.keys():
        yield Difference(where, "extra", name)
    orders = [n for n in before if n in after], [n for n in after if n in before]
    if orders[0] != orders[1]:
        yield Difference(where, "order", f"{orders[0]} → {orders[1]}"[:200])


def _vectors(recorded: list[float], answer: list[float], where: str) -> Iterator[Difference]:
    if len(recorded) != len(answer):
        yield Difference(where, "length", f"{len(recorded)} → {len(answer)}")
        return
    dot = math.fsum(a * b for a, b in zip(recorded, answer, strict=True))
    cosine = dot / math.hypot(*recorded) / math.hypot(*answer)
    if cosine <= _COSINE:
        yield Difference(where, "vector", f"cosine {cosine}")


def _lists(recorded: list[Any], answer: list[Any], where: str) -> Iterator[Difference]:
    if len(recorded) != len(answer):
        yield Difference(where, "length", f"{len(recorded)} → {len(answer)}")
    for index, item in enumerate(answer):
        if recorded:
            yield from _values(recorded[min(index, len(recorded) - 1)], item, f"{where}[]")


def _both(kind: type) -> Callable[[Any, Any], bool]:
    return lambda recorded, answer: isinstance(recorded, kind) and isinstance(answer, kind)


def _are_named(recorded: Any, answer: Any) -> bool:
    both = _both(list)(recorded, answer) and bool(recorded)
    return both and all(isinstance(i, dict) and "name" in i for i in [*recorded, *answer])


def _are_vectors(recorded: Any, answer: Any) -> bool:
    if not _both(list)(recorded, answer) or len(recorded) < _VECTOR:
        return False
    return all(isinstance(i, float) for i in recorded) and all(_type(i) == "number" for i in answer)


def _type(value: Any) -> str:
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return type(value).__name__
    return "number" if isinstance(value, int | float) else type(value).__name__


_COMPARE: tuple[tuple[Callable[[Any, Any], bool], Callable[..., Iterator[Difference]]], ...] = (
    (_both(dict), _objects),
    (_are_vectors, _vectors),
    (_are_named, _named),
    (_both(list), _lists),
)
