"""Pydantic models that read JSON as Go reads it into a struct, and say what Go says.

A `GoStruct` field's annotation is the one statement of its type. Pydantic checks values against it,
strictly; only where it refuses one is the body scanned again, and the shapes that `shape_of` builds
from the same annotations find Go's text.

As in Go: keys match without regard to case, a null leaves the zero value, unknown keys are kept (as
pydantic's extra fields) and never refused.
"""

import types
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, ClassVar, TypeVar, Union, get_args, get_origin

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from serve.errors import BadRequest
from serve.wire import gotypes
from serve.wire.godecoding import Shape, explain, fold
from serve.wire.gojson import MISSING_BODY, document_of, in_order, parse
from serve.wire.goscan import Node

Int = Annotated[int, Field(ge=-(1 << 63), le=(1 << 63) - 1)]
"""Go's `int` on a 64-bit machine."""


_SCANNED: dict[str, Any] = {"scanned": True}


@dataclass(frozen=True, slots=True)
class Named:
    """Marks a slice whose Go type has a name of its own."""

    name: str


@dataclass(frozen=True, slots=True)
class Ordered:
    """Marks an object that Ollama reads into a map that keeps its order."""

    name: str


class GoStruct(BaseModel):
    """A Go struct. `go_name` is its type as Go prints it; `go_alias`, where it decodes itself, the
    name of the type that it decodes by."""

    model_config = ConfigDict(frozen=True, strict=True, extra="allow")

    go_name: ClassVar[str]
    go_alias: ClassVar[str] = ""

    @model_validator(mode="before")
    @classmethod
    def _as_go_reads(cls, data: Any, info: ValidationInfo) -> Any:
        """Known keys in their own case, without nulls; what isn't an object is left to pydantic.

        A key that comes twice, in two cases, is refused at first: Go looks at both values, so the
        whole body has to be scanned.
        """
        if not isinstance(data, dict):
            return data
        fields = _fields(cls)
        is_scanned = info.context is _SCANNED
        read: dict[str, Any] = {}
        for key, value in in_order(data) if is_scanned else data.items():
            field = fields.exact.get(key) or fields.folded.get(fold(key))
            if field is None:
                read[key] = value
            elif field.key in read and not is_scanned:
                raise ValueError("named twice")
            elif value is not None:
                read[field.key] = field.filled(value)
            elif not field.outlasts_null:
                read.pop(field.key, None)
        return read


class GoRequest(GoStruct):
    """A request body."""

    _raw: dict[str, Any] = PrivateAttr(default_factory=dict)

    @property
    def raw(self) -> dict[str, Any]:
        """The object as it was sent, with all its fields."""
        return self._raw


R = TypeVar("R", bound=GoRequest)


def decode(body: bytes, kind: type[R], *, empty: str = MISSING_BODY) -> R:
    """The request in `body`. Raises `BadRequest` with the text of Go's decoder."""
    value, document = parse(body, empty=empty)
    fields = {} if value is None else value
    try:
        request = None if document else kind.model_validate(fields)
    except ValidationError:
        document, request = document_of(body), None
    if request is None:
        _refuse(document, kind)
        request = _validated(fields, kind)
    request._raw = value if isinstance(value, dict) else {}  # noqa: SLF001 - made here
    return request


def _validated(fields: object, kind: type[R]) -> R:
    """What Go has nothing against; if pydantic still has, its word is the last."""
    try:
        return kind.model_validate(fields, context=_SCANNED)
    except ValidationError as exc:
        fault = exc.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in fault["loc"])
        raise BadRequest(f"{place}: {fault['msg']}") from None


def _refuse(document: Node, kind: type[GoRequest]) -> None:
    text = explain(document, struct_shape(kind))
    if text is not None:
        raise BadRequest(text)


def shape_of(annotation: Any, metadata: tuple[Any, ...] = ()) -> Shape:
    """The Go type that an annotation states; a shape among its metadata wins."""
    for mark in metadata:
        if hasattr(mark, "take"):
            shape: Shape = mark
            return shape
    annotation = _without_none(annotation)
    if get_origin(annotation) is Annotated:
        return shape_of(annotation.__origin__, annotation.__metadata__ + metadata)
    if get_origin(annotation) in (list, dict):
        return _collection(annotation, metadata)
    if isinstance(annotation, type) and issubclass(annotation, GoStruct):
        return struct_shape(annotation)
    return _SIMPLE[annotation]


def _collection(annotation: Any, metadata: tuple[Any, ...]) -> Shape:
    element = shape_of(get_args(annotation)[-1])
    named = next((mark for mark in metadata if isinstance(mark, Named | Ordered)), None)
    if isinstance(named, Ordered):
        return gotypes.OrderedMap(named.name, element)
    if get_origin(annotation) is dict:
        return gotypes.Map(f"map[string]{element.name}", element)
    return gotypes.Slice(named.name if named else f"[]{element.name}", element)


_SIMPLE: Mapping[object, Shape] = {
    str: gotypes.Plain("string"),
    bool: gotypes.Plain("bool"),
    int: gotypes.Integer(),
    float: gotypes.Float(),
    Any: gotypes.Any(),
}


def struct_shape(kind: type[GoStruct]) -> Shape:
    """The Go type of a struct, made once a class."""
    if kind not in _STRUCTS:
        name = kind.go_alias or kind.go_name
        struct = gotypes.Struct(name, "" if "{" in name else name.rpartition(".")[2])
        _STRUCTS[kind] = gotypes.Unmarshaler(kind.go_name, struct) if kind.go_alias else struct
        struct.fields = {
            info.alias or field: shape_of(info.annotation, tuple(info.metadata))
            for field, info in kind.model_fields.items()
        }
    return _STRUCTS[kind]


_STRUCTS: dict[type[GoStruct], Shape] = {}


@dataclass(frozen=True, slots=True)
class _Field:
    """A known key, what a null among its elements stands for, and whether a value of it that came
    earlier stays if a null follows: Go sets only what can be nil to nil."""

    key: str
    zero: object
    outlasts_null: bool

    def filled(self, value: Any) -> Any:
        """The value, with zero values in the place of nulls among its elements."""
        if self.zero is None:
            return value
        if isinstance(value, list) and None in value:
            return [self.zero if item is None else item for item in value]
        if isinstance(value, dict) and None in value.values():
            return {key: self.zero if item is None else item for key, item in value.items()}
        return value


@dataclass(frozen=True, slots=True)
class _Fields:
    """The known keys of a struct, as they are and folded."""

    exact: Mapping[str, _Field]
    folded: Mapping[str, _Field]


@cache
def _fields(kind: type[GoStruct]) -> _Fields:
    exact = {}
    for name, info in kind.model_fields.items():
        key = info.alias or name
        exact[key] = _Field(key, _zero(info.annotation), info.annotation in _VALUES)
    return _Fields(exact, {fold(key): field for key, field in exact.items()})


def _zero(annotation: Any) -> object:
    """What Go makes of a null among the elements of this type; None: of no matter."""
    annotation = _without_none(annotation)
    element: Any = get_args(annotation)[-1] if get_origin(annotation) in (list, dict) else None
    if get_origin(element) is Annotated:
        element = element.__origin__
    if isinstance(element, type) and issubclass(element, GoStruct):
        return {}
    return _ZEROS.get(_without_none(element))


_ZEROS: Mapping[object, object] = {str: "", int: 0}
_VALUES = (str, bool, int, float)


def _without_none(annotation: Any) -> Any:
    """`X | None` → `X`; of other unions the first member, which then is the rule."""
    if get_origin(annotation) in (Union, types.UnionType):
        return next(arg for arg in get_args(annotation) if arg is not type(None))
    return annotation
