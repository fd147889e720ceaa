"""The input of POST /v1/responses: a string, or a list of items (Ollama's openai/responses.go).

Each item, and each part of a message, is read by its own type; what is wrong with one is told with
its place, in words of Ollama's own.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field, ValidationInfo

from serve.wire import gotypes
from serve.wire.godecoding import Decoding, DecodingEndedError, explain, fold
from serve.wire.goscan import Node, Object
from serve.wire.gostruct import GoStruct, struct_shape
from serve.wire.native import quoted


class Peek(GoStruct):
    """What tells which type an item is of."""

    go_name: ClassVar[str] = r'struct { Type string "json:\"type\""; Role string "json:\"role\"" }'

    type: str = ""
    role: str = ""

    @property
    def kind(self) -> str:
        """The type; an item with only a role is a message."""
        return self.type or ("message" if self.role else "")


class ContentPeek(GoStruct):
    """What tells which type a part of a message is of."""

    go_name: ClassVar[str] = r'struct { Type string "json:\"type\"" }'

    type: str = ""


class InputText(GoStruct):
    """A text."""

    go_name: ClassVar[str] = "openai.ResponsesTextContent"

    type: str = ""
    text: str = ""


class OutputText(GoStruct):
    """A text that the model said before."""

    go_name: ClassVar[str] = "openai.ResponsesOutputTextContent"

    type: str = ""
    text: str = ""


class InputImage(GoStruct):
    """An image, as a `data:` URL; one that is only named by an id is left out."""

    go_name: ClassVar[str] = "openai.ResponsesImageContent"

    type: str = ""
    detail: str = ""
    file_id: str = ""
    image_url: str = ""


class InputFile(GoStruct):
    """A file: read, and refused."""

    go_name: ClassVar[str] = "openai.ResponsesFileContent"

    type: str = ""
    file_data: str = ""
    file_id: str = ""
    file_url: str = ""
    filename: str = ""


Part = InputText | OutputText | InputImage | InputFile
_PARTS: Mapping[str, type[Part]] = {
    "input_text": InputText,
    "output_text": OutputText,
    "input_image": InputImage,
    "input_file": InputFile,
}


def _read_parts(value: object, info: ValidationInfo) -> object:
    """Each part by its type. Raises `ValueError` for one of none."""
    return [_read_part(part, info) for part in value] if isinstance(value, list) else value


def _read_part(value: object, info: ValidationInfo) -> Part:
    if isinstance(value, Part):
        return value
    kind = ContentPeek.model_validate({} if value is None else value, context=info.context).type
    if kind not in _PARTS:
        raise ValueError("unknown content type")
    return _PARTS[kind].model_validate(value, context=info.context)


Parts = Annotated[list[Part] | str, BeforeValidator(_read_parts)]
"""A string, or a list of parts."""


class InputMessage(GoStruct):
    """One message."""

    go_name: ClassVar[str] = (
        r'struct { Type string "json:\"type\""; Role string "json:\"role\""; '
        r'Content json.RawMessage "json:\"content\"" }'
    )

    type: str = ""
    role: str = ""
    content: Annotated[Parts, gotypes.Raw()] = ""


class FunctionCall(GoStruct):
    """A call of a tool that the model made before; its arguments are JSON text."""

    go_name: ClassVar[str] = "openai.ResponsesFunctionCall"

    id: str = ""
    type: str = ""
    call_id: str = ""
    name: str = ""
    arguments: str = ""


class FunctionCallOutput(GoStruct):
    """What a tool gave."""

    go_name: ClassVar[str] = (
        r'struct { Type string "json:\"type\""; CallID string "json:\"call_id\""; '
        r'Output json.RawMessage "json:\"output\"" }'
    )

    type: str = ""
    call_id: str = ""
    output: Annotated[Parts, gotypes.Raw()] = ""


class Summary(GoStruct):
    """A part of what the model thought."""

    go_name: ClassVar[str] = "openai.ResponsesReasoningSummary"

    type: str = ""
    text: str = ""


class ReasoningInput(GoStruct):
    """What the model thought before: only `encrypted_content` is read, which here is plain."""

    go_name: ClassVar[str] = "openai.ResponsesReasoningInput"

    id: str = ""
    type: str = ""
    summary: list[Summary] = Field(default_factory=list)
    encrypted_content: str = ""


class SearchAction(GoStruct):
    """What was searched for."""

    go_name: ClassVar[str] = "openai.ResponsesWebSearchAction"

    type: str = ""
    query: str = ""


class WebSearchCall(GoStruct):
    """A search that was made before: the message after it says what it found."""

    go_name: ClassVar[str] = "openai.ResponsesWebSearchCall"

    id: str = ""
    type: str = ""
    status: str = ""
    action: SearchAction | None = None


Item = InputMessage | FunctionCall | FunctionCallOutput | ReasoningInput | WebSearchCall
_ITEMS: Mapping[str, type[Item]] = {
    "message": InputMessage,
    "function_call": FunctionCall,
    "function_call_output": FunctionCallOutput,
    "reasoning": ReasoningInput,
    "web_search_call": WebSearchCall,
}


def _read_items(value: object, info: ValidationInfo) -> object:
    """Each item by its type. Raises `ValueError` for one of none."""
    return [_read_item(item, info) for item in value] if isinstance(value, list) else value


def _read_item(value: object, info: ValidationInfo) -> Item:
    kind = Peek.model_validate({} if value is None else value, context=info.context).kind
    if kind not in _ITEMS:
        raise ValueError("unknown input item type")
    return _ITEMS[kind].model_validate(value, context=info.context)


@dataclass(frozen=True, slots=True)
class InputShape:
    """`ResponsesInput`, which decodes itself: its faults are texts that name the item."""

    name: str = "openai.ResponsesInput"

    def take(self, node: Node, decoding: Decoding) -> None:  # noqa: ARG002 - as all shapes
        """Any fault ends the decoding."""
        fault = _fault_in(node, "input", _item_fault, "input")
        if fault is not None:
            raise DecodingEndedError(fault)


def _fault_in(node: Node, name: str, judge: Any, place: str) -> str | None:
    """The first fault in what is a string or a list; `judge` tells that of an element."""
    if node is None or isinstance(node, str):
        return None
    if not isinstance(node, list):
        fault = explain(node, gotypes.Slice("[]json.RawMessage", gotypes.Raw()))
        return f"{name} must be a string or array: {fault}"
    for index, element in enumerate(node):
        fault = judge(element)
        if fault is not None:
            return f"{place}[{index}]: {fault}"
    return None


def _item_fault(node: Node) -> str | None:
    fault = explain(node, struct_shape(Peek))
    if fault is not None:
        return fault
    kind = _text(node, "type") or ("message" if _text(node, "role") else "")
    if not kind:
        return "input item missing required 'type' field"
    if kind not in _ITEMS:
        return f"unknown input item type: {quoted(kind)}"
    fault = explain(node, struct_shape(_ITEMS[kind]))
    if fault is None and kind in _HOLDERS:
        name = _HOLDERS[kind]
        return _fault_in(_value(node, name), name, _part_fault, name)
    return fault


_HOLDERS = {"message": "content", "function_call_output": "output"}
"""The items whose parts are read by their types, and the field that holds them."""


def _part_fault(node: Node) -> str | None:
    fault = explain(node, struct_shape(ContentPeek))
    if fault is not None:
        return fault
    kind = _text(node, "type")
    if kind not in _PARTS:
        return f"unknown content type: {kind}"
    return explain(node, struct_shape(_PARTS[kind]))


def _value(node: Node, name: str) -> Node:
    pairs = node.pairs if isinstance(node, Object) else []
    found = [value for key, value in pairs if fold(key) == name and value is not None]
    return found[-1] if found else None


def _text(node: Node, name: str) -> str:
    value = _value(node, name)
    return value if isinstance(value, str) else ""


Input = Annotated[list[Item] | str, BeforeValidator(_read_items), InputShape()]
"""A string, or a list of items."""
