"""What the settings look like from outside: a JSON schema for editors, a table for the README."""

import json
import types
from collections.abc import Iterator
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from serve.cli.deployfile import DeployFile
from serve.errors import ConfigError
from serve.settings import Settings

_BEGIN = "<!-- settings: from `rayllama schema --markdown` -->"
_END = "<!-- /settings -->"
_ID = "Rayllama config: a Ray Serve config file with Rayllama's settings as `args`"


def as_json() -> str:
    """`configs/schema.json`: the whole file, with `serve.settings.Settings` as `args`."""
    schema = DeployFile.model_json_schema()
    schema["title"] = _ID
    return json.dumps(schema, indent=2, sort_keys=True) + "\n"


def as_markdown() -> str:
    """The table of all settings: key, default, meaning."""
    rows = [
        f"| `{key}` | {_default(field)} | {_meaning(field).replace('|', chr(92) + '|')} |"
        for key, field in _walk(Settings)
    ]
    return "\n".join(["| key | default | meaning |", "|---|---|---|", *rows]) + "\n"


def into_markdown(text: str) -> str:
    """A document with the table between its two marks. Raises `ConfigError` without them."""
    head, found, rest = text.partition(_BEGIN)
    _, end, tail = rest.partition(_END)
    if not (found and end):
        raise ConfigError(f"the marks {_BEGIN} and {_END} are missing")
    return f"{head}{_BEGIN}\n\n{as_markdown()}\n{_END}{tail}"


def _walk(section: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    for name, field in section.model_fields.items():
        inner, is_list = _section(field.annotation)
        key = f"{prefix}{name}"
        if inner is None:
            yield key, field
        elif is_list:
            yield f"{key}[]", field
            yield from _walk(inner, f"{key}[].")
        else:
            yield from _walk(inner, f"{key}.")


def _section(annotation: Any) -> tuple[type[BaseModel] | None, bool]:
    """The section that a field holds, and whether it is a list of them."""
    if get_origin(annotation) is list:
        inner, _ = _section(get_args(annotation)[0])
        return inner, True
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, False
    return None, False


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.default
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1 << 20:
        return f"`{value >> 20}MiB`" if value % (1 << 20) == 0 else f"`{value}`"
    return f"`{json.dumps(value)}`"


def _meaning(field: FieldInfo) -> str:
    text = " ".join((field.description or "").split())
    choices = _choices(field.annotation)
    if not choices:
        return text
    return f"{text} One of {', '.join(f'`{choice or chr(34) * 2}`' for choice in choices)}."


def _choices(annotation: Any) -> list[str]:
    if get_origin(annotation) is Literal:
        return [str(choice) for choice in get_args(annotation)]
    if get_origin(annotation) in (Union, types.UnionType):
        return [choice for part in get_args(annotation) for choice in _choices(part)]
    return []
