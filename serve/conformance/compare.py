"""Telling where an answer differs from the recorded one.

Compared: status, the headers that a client may act on, framing, and bodies as JSON: keys and their
order, types, lengths, and every value that `permitted.py` doesn't free. What of a stream is one
line or one event counts, not how HTTP chunks cut it. Vectors match by their direction and
their length, which tells what is normalised.
"""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from serve.conformance.difference import Difference
from serve.conformance.permitted import FRAMINGS, OLLAMA, Profile, Rule, permission
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
_NORM = 0.001
"""Builds of llama.cpp differ by less, what is normalised and what isn't by far more."""

_Allows = Callable[[Difference], Rule | None]


@dataclass(frozen=True)
class Verdict:
    """What differs and may not, a line each, and what differs and may, with the rule."""

    faults: list[str]
    permitted: list[tuple[Difference, Rule]]


def judge(case: Case, answer: Answer, profile: Profile = OLLAMA) -> Verdict:
    """Hold an answer against the recorded one; `profile` is who answered."""
    faults: dict[str, None] = {}
    permitted: dict[Difference, Rule] = {}

    def allows(difference: Difference) -> Rule | None:
        return permission(case.id, difference, profile)

    for difference in _all(case.recorded, answer, profile, allows):
        rule = allows(difference)
        if rule:
            permitted[difference] = rule
        else:
            faults[str(difference)] = None
    return Verdict(list(faults), list(permitted.items()))


def differences(case: Case, answer: Answer, profile: Profile = OLLAMA) -> list[str]:
    """What differs and isn't permitted there, a line each."""
    return judge(case, answer, profile).faults


def _all(
    recorded: Answer, answer: Answer, profile: Profile, allows: _Allows
) -> Iterator[Difference]:
    if recorded.status != answer.status:
        text = f"{recorded.status} → {answer.status} {answer.body[:200]}"
        yield Difference("status", "value", text, recorded.status, answer.status)
    framings = recorded.framing, answer.framing
    if framings[0] != framings[1] and not (profile.reframes and FRAMINGS(*framings)):
        yield Difference("framing", "value", " → ".join(framings), *framings)
    yield from _headers(recorded, answer)
    yield from _bodies(recorded, answer, allows)


def _headers(recorded: Answer, answer: Answer) -> Iterator[Difference]:
    for name in _HEADERS:
        before, after = _header(recorded, name), _header(answer, name)
        if before != after:
            yield Difference(f"header.{name}", "value", f"{before} → {after}", before, after)


def _header(answer: Answer, name: str) -> list[str]:
    return [value for key, value in answer.headers if key.lower() == name]


def _bodies(recorded: Answer, answer: Answer, allows: _Allows) -> Iterator[Difference]:
    if not recorded.body or not answer.body:
        if bool(recorded.body) != bool(answer.body):
            yield Difference("body", "length", f"{len(recorded.body)} → {len(answer.body)} bytes")
        return
    try:
        yield from list(_read(recorded, answer, allows))
    except (ValueError, KeyError) as error:  # a server that answers HTML, say
        yield Difference("body", "unreadable", f"{error!r}: {answer.body[:200]!r}")


def _read(recorded: Answer, answer: Answer, allows: _Allows) -> Iterator[Difference]:
    kind = (_header(recorded, "content-type") or [""])[0]
    if kind.startswith("application/x-ndjson"):
        yield from _sequences(_lines(recorded.body), _lines(answer.body), "line", allows)
    elif kind.startswith("text/event-stream"):
        yield from _sequences(_events(recorded.body), _events(answer.body), "event", allows)
    elif kind.startswith("application/json"):
        yield from _values(json.loads(recorded.body), json.loads(answer.body), "body")
    elif recorded.body != answer.body:
        yield Difference("body", "value", f"{recorded.body!r} → {answer.body!r}")


def _lines(body: str) -> list[Any]:
    return [json.loads(line) for line in body.splitlines()]


def _events(body: str) -> list[Any]:
    """How many parts the text comes in is free, so a number is compared by whether it is right."""
    events = [_event(event) for event in body.split("\n\n") if event]
    for place, event in enumerate(events):
        data = event.get("data") if isinstance(event, dict) else None
        if isinstance(data, dict) and data.get("sequence_number") == place:
            data["sequence_number"] = "its place"
    return events


def _event(text: str) -> Any:
    """An event as its data; where it has a name, with that."""
    fields = dict(line.split(": ", 1) for line in text.splitlines())
    data = fields["data"] if fields["data"] == "[DONE]" else json.loads(fields["data"])
    return {"event": fields["event"], "data": data} if "event" in fields else data


def _sequences(
    recorded: list[Any], answer: list[Any], name: str, allows: _Allows
) -> Iterator[Difference]:
    """Streams of the same kinds of items in the same order; how many of a kind is free.

    An item is held against that recorded one of its kind that it is most like.
    """
    before, after = _runs(recorded), _runs(answer)
    kinds = [kind for kind, _ in before], [kind for kind, _ in after]
    if kinds[0] != kinds[1]:
        yield Difference(name, "length", f"{kinds[0]} → {kinds[1]}", *kinds)
    for (kind, models), (other, items) in zip(before, after, strict=False):
        if kind != other:
            return
        for item in items:
            found = [list(_values(model, item, name)) for model in models]
            yield from min(found, key=lambda each: (sum(not allows(d) for d in each), len(each)))


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
        text = f"{recorded!r} → {answer!r}"[:400]
        yield Difference(where, "value", text, recorded, answer)


def _objects(recorded: dict[str, Any], answer: dict[str, Any], where: str) -> Iterator[Difference]:
    if sorted(recorded) == sorted(answer) and list(recorded) != list(answer):
        yield Difference(where, "keys", f"{list(recorded)} → {list(answer)}")
    for key in recorded:
        if key not in answer:
            yield Difference(f"{where}.{key}", "missing", "", recorded[key])
        else:
            yield from _values(recorded[key], answer[key], f"{where}.{key}")
    for key in answer:
        if key not in recorded:
            text = f"{answer[key]!r}"[:200]
            yield Difference(f"{where}.{key}", "extra", text, None, answer[key])
    if _adds_up(recorded) and not _adds_up(answer):
        yield Difference(where, "sum", f"{answer}"[:200])


def _adds_up(usage: dict[str, Any]) -> bool:
    """Is the total that OpenAI's dialect gives the sum of the other two counts?"""
    parts = [usage.get(f"{part}_tokens", 0) for part in ("prompt", "input", "completion", "output")]
    return usage.get("total_tokens") == sum(part for part in parts if isinstance(part, int))


def _named(recorded: list[Any], answer: list[Any], where: str) -> Iterator[Difference]:
    """Lists of things with names: the order of those that both have counts too."""
    before = {_name(item): item for item in recorded}
    after = {_name(item): item for item in answer}
    for name, item in before.items():
        if name in after:
            yield from _values(item, after[name], f"{where}[]")
        else:
            yield Difference(where, "missing", name, name)
    for name in after.keys() - before.keys():
        yield Difference(where, "extra", name, None, name)
    orders = [n for n in before if n in after], [n for n in after if n in before]
    if orders[0] != orders[1]:
        yield Difference(where, "order", f"{orders[0]} → {orders[1]}"[:200])


def _name(item: Any) -> Any:
    """What such a thing is called in Ollama's lists, or as OpenAI's model; None: it has no name."""
    if not isinstance(item, dict):
        return None
    return item.get("name") or (item.get("id") if item.get("object") == "model" else None)


def _vectors(recorded: list[float], answer: list[float], where: str) -> Iterator[Difference]:
    if len(recorded) != len(answer):
        yield Difference(where, "length", f"{len(recorded)} → {len(answer)}")
        return
    norms = math.hypot(*recorded), math.hypot(*answer)
    if not math.isclose(*norms, rel_tol=_NORM):
        yield Difference(where, "norm", f"{norms[0]} → {norms[1]}")
    product = norms[0] * norms[1]
    dot = math.fsum(a * b for a, b in zip(recorded, answer, strict=True))
    if product and not dot / product > _COSINE:
        yield Difference(where, "vector", f"cosine {dot / product}")


def _lists(recorded: list[Any], answer: list[Any], where: str) -> Iterator[Difference]:
    if len(recorded) != len(answer):
        sizes = len(recorded), len(answer)
        yield Difference(where, "length", f"{sizes[0]} → {sizes[1]}", *sizes)
    for index, item in enumerate(answer):
        if recorded:
            yield from _values(recorded[min(index, len(recorded) - 1)], item, f"{where}[]")


def _both(kind: type) -> Callable[[Any, Any], bool]:
    return lambda recorded, answer: isinstance(recorded, kind) and isinstance(answer, kind)


def _are_named(recorded: Any, answer: Any) -> bool:
    both = _both(list)(recorded, answer) and bool(recorded)
    return both and all(_name(item) for item in [*recorded, *answer])


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
