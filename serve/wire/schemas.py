"""JSON schemas of requests and answers, as parts of an OpenAPI document, under Go's names for them.

A property of a `/v1` request says what becomes of it (`serve.wire.fields`). What Go reads leniently
is not said of each field: keys match without regard to case, a null stands for what isn't there,
and unknown keys are no fault.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue, models_json_schema
from pydantic_core import core_schema

from serve.wire.answer_types import Answer
from serve.wire.fields import Fields
from serve.wire.gostruct import GoStruct

Schema = dict[str, Any]

REF = "#/components/schemas/"


class _Undefaulted(GenerateJsonSchema):
    """Without defaults: they are Go's zero values, which stand for nothing."""

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        """That of the value alone."""
        return self.generate_inner(schema["schema"])


def name_of(kind: type[GoStruct] | type[Answer]) -> str:
    """A component's name: that of Go's type, or ours where Go's has none."""
    name = kind.go_name
    return kind.__name__ if "{" in name else name


def reference(kind: type[GoStruct] | type[Answer]) -> Schema:
    """A schema that is told in the components."""
    return {"$ref": REF + name_of(kind)}


def components(kinds: Iterable[type[BaseModel]]) -> dict[str, Schema]:
    """The schemas of these types and of all within them, by `name_of`."""
    wanted = [(kind, "validation") for kind in dict.fromkeys(kinds)]
    _, told = models_json_schema(
        wanted,  # type: ignore[arg-type]
        ref_template=REF + "{model}",
        schema_generator=_Undefaulted,
    )
    names = {key: name_of(kind) for kind in _all_kinds() for key in _keys(kind)}
    schemas = {names[key]: _told(schema, names) for key, schema in told["$defs"].items()}
    if len(schemas) != len(told["$defs"]):
        raise ValueError("two types have one name")
    return dict(sorted(schemas.items()))


def _all_kinds() -> Iterator[type[GoStruct] | type[Answer]]:
    """The project's own, and no test's."""
    found: list[Any] = [GoStruct, Answer]
    for kind in found:
        found += kind.__subclasses__()
        if kind.__module__.startswith("serve.") and hasattr(kind, "go_name"):
            yield kind


def _keys(kind: type[BaseModel]) -> tuple[str, str]:
    """What pydantic calls it: its name, or where two have the same, that of its module as well."""
    return kind.__name__, f"{kind.__module__.replace('.', '__')}__{kind.__name__}"


def _told(value: Any, names: Mapping[str, str], *, of_properties: bool = False) -> Any:
    """Without titles, which repeat names, and with references by Go's names."""
    if isinstance(value, list):
        return [_told(item, names) for item in value]
    if not isinstance(value, dict):
        return value
    kept = {
        key: _told(item, names, of_properties=key == "properties" and not of_properties)
        for key, item in value.items()
        if of_properties or key != "title"
    }
    if isinstance(kept.get("$ref"), str):
        kept["$ref"] = REF + names[kept["$ref"].removeprefix(REF)]
    if isinstance(kept.get("description"), str):
        kept["description"] = " ".join(kept["description"].split())
    return kept


def require(schemas: Mapping[str, Schema], name: str, fields: Iterable[str]) -> None:
    """Say what a request is refused without."""
    if required := sorted(fields):
        schemas[name]["required"] = required


def describe(schemas: Mapping[str, Schema], name: str, fields: Fields) -> None:
    """Say of each field what becomes of it; those that no type has are added."""
    within: dict[tuple[int, str], tuple[Schema, list[str]]] = {}
    for path, fate in sorted(fields.items()):
        owner, rest = _owner(schemas, schemas[name], path.split("."))
        text = f"{fate.what}: {fate.how}"
        known = owner["properties"].setdefault(rest[0], {})
        if len(rest) > 1:  # within something that Ollama reads piece by piece: no schema of its own
            _, paths = within.setdefault((id(known), text), (known, []))
            paths.append(f"`{'.'.join(rest[1:])}`")
        else:
            _add(known, text)
    for (_, text), (known, paths) in within.items():
        _add(known, f"{', '.join(paths)} {text}")


def _add(known: Schema, text: str) -> None:
    before = known.get("description")
    if before is None:
        known["description"] = text
    elif text not in before:  # a type within itself says it once
        known["description"] = f"{before}. {text}"


def _owner(
    schemas: Mapping[str, Schema], schema: Schema, parts: list[str]
) -> tuple[Schema, list[str]]:
    """The innermost schema with properties on a path, and what is left of the path there."""
    while len(parts) > 1:
        inner = _referred(schemas, schema["properties"].get(parts[0], {}))
        if inner is None:
            break
        schema, parts = inner, parts[1:]
    return schema, parts


def _referred(schemas: Mapping[str, Schema], schema: Schema) -> Schema | None:
    """The one schema with properties that a property has, or that its elements have."""
    found = [each for each in _refs(schema) if "properties" in schemas[each]]
    return schemas[found[0]] if len(found) == 1 else None


def _refs(schema: Schema) -> Iterator[str]:
    if "$ref" in schema:
        yield schema["$ref"].removeprefix(REF)
    for inner in [schema.get("items"), *schema.get("anyOf", ())]:
        if isinstance(inner, dict):
            yield from _refs(inner)
