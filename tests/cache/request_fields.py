"""Every field of a request type, nested ones too, each as a pair of requests that differ in it.

Types are pydantic models and typed dicts. Where a field may be one of several structures, each of
them is walked in its own place. The values are made from the annotations, so that a field that a
later version of a library brings is walked without a word here.
"""

import types
import typing
from collections import abc
from collections.abc import Callable, Iterator
from functools import partial
from typing import (
    Annotated,
    Any,
    Literal,
    NamedTuple,
    NotRequired,
    Required,
    get_args,
    get_origin,
)

from ollama import Image
from openai.types.chat import ChatCompletionAssistantMessageParam
from pydantic import BaseModel
from typing_extensions import TypeAliasType, is_typeddict

from serve.wire import anthropic_types, messages, openai_types, responses_input, responses_types

PIXEL, OTHER_PIXEL = "iVBORw0KGgo=", "iVBORw0KGgr/"
IMAGES = ("data:image/png;base64," + PIXEL, "data:image/png;base64," + OTHER_PIXEL)

SCHEMAS = ({"a": {"type": "string"}}, {"b": {"type": "string"}})

LEAVES: dict[type, tuple[Any, Any]] = {
    bool: (True, False),
    int: (7, 3),
    float: (0.25, 0.5),
    str: ("one", "another"),
    dict: ({"a": 1}, {"b": 2}),
}
NAMED: dict[str, tuple[Any, Any]] = {
    "arguments": ('{"a": 1}', '{"b": 2}'),
    "data": (PIXEL, OTHER_PIXEL),
    "effort": ("low", "high"),
    "encoding_format": ("float", "base64"),
    "images": ([PIXEL], [OTHER_PIXEL]),
    "input": ("one", "another"),
    "reasoning_effort": ("low", "high"),
    "think": (True, False),
    "url": IMAGES,
    "image_url": IMAGES,
    "schema": ({"a": 1}, {"b": 2}),
}
"""Values of names whose type doesn't say enough."""

LEAST: dict[Any, dict[str, Any]] = {
    ChatCompletionAssistantMessageParam: {"role": "assistant", "content": "hi"},
    anthropic_types.MessageParam: {"role": "user", "content": "hi"},
    anthropic_types.ContentBlock: {"type": "tool_use", "id": "c", "name": "f"},
    anthropic_types.ImageSource: {"type": "base64", "data": PIXEL},
    anthropic_types.Tool: {"name": "f"},
    messages.Message: {"role": "user", "content": "hi"},
    openai_types.Message: {"role": "user", "content": "hi"},
    openai_types.ToolCall: {"function": {"name": "f", "arguments": "{}"}},
    openai_types.CalledFunction: {"name": "f", "arguments": "{}"},
    responses_input.InputMessage: {"type": "message", "role": "user", "content": "hi"},
    responses_input.InputText: {"type": "input_text", "text": "hi"},
    responses_input.OutputText: {"type": "output_text", "text": "hi"},
    responses_input.InputImage: {"type": "input_image", "image_url": IMAGES[0]},
    responses_input.InputFile: {"type": "input_file"},
    responses_input.FunctionCall: {"type": "function_call", "name": "f", "arguments": "{}"},
    responses_input.FunctionCallOutput: {"type": "function_call_output", "output": "hi"},
    responses_input.ReasoningInput: {"type": "reasoning", "encrypted_content": "hi"},
    responses_input.WebSearchCall: {"type": "web_search_call"},
    responses_types.TextFormat: {"type": "json_schema", "schema": {"a": 1}},
    openai_types.ResponseFormat: {"type": "json_schema", "json_schema": {"schema": {"a": 1}}},
}
"""What makes an instance mean anything, where its type calls too little of it required."""

BARE = (dict, abc.Mapping)
LISTS = (list, tuple, abc.Sequence, abc.Iterable)


class Case(NamedTuple):
    """A request, and some that differ from it in the field at `path`, names joined by dots."""

    path: str
    base: dict[str, Any]
    others: list[dict[str, Any]]


Place = Callable[[Any], dict[str, Any]]
"""A whole request with this value in one place."""


def walk(kind: type, base: dict[str, Any]) -> Iterator[Case]:
    """All fields of the request type, each set in a request that otherwise says `base`."""

    def place(instance: Any) -> dict[str, Any]:
        return {**base, **instance}

    yield from _walk(kind, place, base, "", ())


def _walk(
    kind: Any, place: Place, base: dict[str, Any], path: str, seen: tuple[Any, ...]
) -> Iterator[Case]:
    for name, annotation in fields(kind).items():
        here = f"{path}.{name}" if path else name
        told = [value for value in values(name, annotation) if value != base.get(name)]
        yield Case(here, place(base), [place(base | {name: value}) for value in told])
        for inner, wrap in structures(annotation):
            if inner not in seen:
                nested = _nested(place, base, name, wrap)
                yield from _walk(inner, nested, least(inner), here, (*seen, inner))


def _nested(place: Place, base: dict[str, Any], name: str, wrap: Callable[[Any], Any]) -> Place:
    def nested(instance: Any) -> dict[str, Any]:
        return place(base | {name: wrap(instance)})

    return nested


def fields(kind: Any) -> dict[str, Any]:
    """Annotations by the names that go over the wire."""
    if issubclass(kind, BaseModel):
        return {f.alias or name: f.annotation for name, f in kind.model_fields.items()}
    return {name: plain(hint) for name, hint in typing.get_type_hints(kind).items()}


def least(kind: Any) -> dict[str, Any]:
    """The least instance of a structure."""
    if kind in LEAST or issubclass(kind, BaseModel):
        return LEAST.get(kind, {})
    hints = typing.get_type_hints(kind, include_extras=True)
    needed = [name for name, hint in hints.items() if get_origin(hint) is Required]
    return {name: values(name, hints[name])[0] for name in (hints if kind.__total__ else needed)}


def plain(annotation: Any) -> Any:
    """Without the marks that don't change which values there are."""
    while True:
        if isinstance(annotation, TypeAliasType):
            annotation = annotation.__value__
        elif get_origin(annotation) in (Annotated, Required, NotRequired):
            annotation = get_args(annotation)[0]
        else:
            return annotation


def members(annotation: Any) -> list[Any]:
    """The members of a union, without None."""
    annotation = plain(annotation)
    if get_origin(annotation) in (typing.Union, types.UnionType):
        return [one for arg in get_args(annotation) for one in members(arg)]
    return [] if annotation is type(None) else [annotation]


def is_structure(annotation: Any) -> bool:
    """Has it fields of its own? An image is its bytes."""
    is_class = isinstance(annotation, type) and get_origin(annotation) is None
    return (
        is_class
        and annotation is not Image
        and (is_typeddict(annotation) or issubclass(annotation, BaseModel))
    )


def structures(annotation: Any) -> Iterator[tuple[Any, Callable[[Any], Any]]]:
    """Each structure that may stand here, and how one stands here."""
    for one in members(annotation):
        origin, args = get_origin(one), get_args(one)
        if is_structure(one):
            yield one, lambda instance: instance
        elif origin in LISTS:
            for inner, wrap in structures(args[0]):
                yield inner, partial(_listed, wrap)
        elif origin in BARE:
            for inner, wrap in structures(args[1]):
                yield inner, partial(_named, wrap)


def _listed(wrap: Callable[[Any], Any], instance: Any) -> list[Any]:
    return [wrap(instance)]


def _named(wrap: Callable[[Any], Any], instance: Any) -> dict[str, Any]:
    return {"a": wrap(instance)}


def values(name: str, annotation: Any) -> list[Any]:
    """At least two different values of a field."""
    kinds = members(annotation)
    named = NAMED.get(name, ())
    if any(
        type(named[0]) is kind or kind is Any or get_origin(kind) in LISTS
        for kind in kinds
        if named
    ):
        return list(named)
    return [*(value for kind in kinds for value in _values(name, kind)), "yet another"]


def _values(name: str, one: Any) -> list[Any]:
    origin, args = get_origin(one), get_args(one)
    if origin is Literal:
        return list(args)
    if is_structure(one):
        return [least(one)]
    if origin in LISTS:
        return [[value] for value in values(name, args[0])]
    if origin in BARE and list(structures(args[1])):
        return [{"a": value} for value in values(name, args[1])]
    if origin in BARE or one is Any or one is object:
        return list(SCHEMAS if name == "properties" else LEAVES[dict])
    return list(LEAVES.get(one, LEAVES[str]))
