"""JSON schemas that Ollama's llama.cpp makes no grammar of, and what it says of them.

The llama.cpp of this engine leaves a schema that it can't follow unheeded: an answer would have any
form, and nobody would know. Ollama's refuses the request; so it is refused here, by the rules of
that converter (its `json-schema-to-grammar`, b10488): a reference that leads nowhere, a type that
doesn't exist, a pattern that isn't anchored. What it doesn't look at is no fault here either.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

_TYPES = frozenset(
    ("boolean", "number", "integer", "value", "object", "array", "uuid", "char", "string", "null")
)
_REMOTE = "https://"
Parts = list[Any] | None


def conversion_fault(schema: Any) -> str | None:
    """What is wrong with a schema, a line for each fault; None if it can be followed."""
    targets: dict[str, Any] = {}
    faults = [*_references(schema, targets), *_unrecognised(schema, targets)]
    return "JSON schema conversion failed:\n" + "\n".join(faults) if faults else None


def _references(schema: Any, targets: dict[str, Any]) -> Iterator[str]:
    """Finds what each `$ref` in the schema stands for; tells of those that stand for nothing."""
    waiting = [schema]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict) and "$ref" in node:
            reference = str(node["$ref"])
            if reference not in targets and not reference.startswith(_REMOTE):
                yield from _resolve(schema, reference, targets)
        else:
            waiting.extend(reversed(_inside(node)))


def _resolve(schema: Any, reference: str, targets: dict[str, Any]) -> Iterator[str]:
    start, _, path = reference.partition("/")
    if start != "#" or not reference.startswith("#/"):
        yield f"Unsupported ref: {reference}"
        return
    target = schema
    for step in path.split("/"):
        found = _step(target, step)
        if found is None:
            yield f"Error resolving ref {reference}: {step} not in {_written(target)}"
            return
        (target,) = found
    targets[reference] = target


def _step(target: Any, step: str) -> tuple[Any] | None:
    """What is there under a name or a number, if anything is."""
    if isinstance(target, dict) and step in target:
        return (target[step],)
    if isinstance(target, list) and step.isdecimal() and int(step) < len(target):
        return (target[int(step)],)
    return None


def _unrecognised(schema: Any, targets: Mapping[str, Any]) -> Iterator[str]:
    """Looks at every part of the schema that shapes an answer; at what a `$ref` names, once."""
    waiting, seen = [schema], set[str]()
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict) and "$ref" in node:
            reference = str(node["$ref"])
            if reference not in seen:
                seen.add(reference)
                waiting.append(targets.get(reference))
            continue
        parts = _parts(node, targets)
        if parts is None:
            yield from _leaf(node)
        else:
            waiting.extend(reversed(parts))


def _parts(node: Any, targets: Mapping[str, Any]) -> Parts:
    """The schemas that this one is made of; None if it is a leaf. The first kind that fits, is."""
    if not isinstance(node, dict):
        return None
    found = (find(node, node.get("type")) for find in _KINDS)
    parts = next((parts for parts in found if parts is not None), None)
    if parts is None and node.get("type") in (None, "object", "string") and "allOf" in node:
        parts = list(_components(node["allOf"], targets))
    return parts if parts is not None else _items(node, node.get("type"))


def _union(node: Mapping[str, Any], _: Any) -> Parts:
    name = "oneOf" if "oneOf" in node else "anyOf"
    return _inside(node[name]) if name in node else None


def _types(node: Mapping[str, Any], kind: Any) -> Parts:
    return [{**node, "type": one} for one in kind] if isinstance(kind, list) else None


def _fixed(node: Mapping[str, Any], _: Any) -> Parts:
    return [] if "const" in node or "enum" in node else None


def _object(node: Mapping[str, Any], kind: Any) -> Parts:
    others = node.get("additionalProperties", True)
    if kind not in (None, "object") or ("properties" not in node and others is True):
        return None
    properties = node.get("properties", {})
    inside = _inside(properties) if isinstance(properties, dict | list) else [properties]
    return [*inside, *([others] if isinstance(others, dict) else [])]


def _items(node: Mapping[str, Any], kind: Any) -> Parts:
    name = "items" if "items" in node else "prefixItems"
    if kind not in (None, "array") or name not in node:
        return None
    items = node[name]
    return items if isinstance(items, list) else [items]


def _components(parts: Any, targets: Mapping[str, Any]) -> Iterable[Any]:
    """The properties that an `allOf` puts together; all else in it says nothing."""
    waiting, seen = list(reversed(_inside(parts))), set[str]()
    while waiting:
        part = waiting.pop()
        if not isinstance(part, dict):
            continue
        reference = str(part.get("$ref", ""))
        if "anyOf" in part:
            waiting.extend(reversed(_inside(part["anyOf"])))
        elif reference and reference not in seen:
            seen.add(reference)
            waiting.append(targets.get(reference))
        elif not reference:
            yield from _inside(part.get("properties", {}))


_KINDS: Sequence[Callable[[Mapping[str, Any], Any], Parts]] = (_union, _types, _fixed, _object)


def _leaf(node: Any) -> Iterator[str]:
    """What is wrong with a schema that is made of no others."""
    if not isinstance(node, dict):
        if node not in (None, []):
            yield f"Unrecognized schema: {_written(node)}"
        return
    kind, pattern = node.get("type"), node.get("pattern")
    if kind in (None, "string") and isinstance(pattern, str):
        if not (pattern.startswith("^") and pattern.endswith("$")):
            yield "Pattern must start with '^' and end with '$'"
    elif kind is not None and (not isinstance(kind, str) or kind not in _TYPES):
        yield f"Unrecognized schema: {_written(node)}"


def _inside(node: Any) -> list[Any]:
    """The values of an object, the items of an array; nothing else has any inside."""
    if isinstance(node, dict):
        return list(node.values())
    return node if isinstance(node, list) else []


def _written(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
