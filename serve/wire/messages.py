"""What the requests of both dialects hold: messages, tools and calls (Ollama's `api` types)."""

from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, Field

from serve.wire.gobase64 import corrupt_at
from serve.wire.gostruct import GoStruct, Int, Named, Ordered
from serve.wire.gotypes import Bytes, StringOrStrings, Unmarshaler


def _is_base64(value: str | list[Int]) -> str | list[Int]:
    if isinstance(value, str) and corrupt_at(value) is not None:
        raise ValueError("not base64")
    if isinstance(value, list) and not all(0 <= item < 256 for item in value):
        raise ValueError("not bytes")
    return value


ImageData = Annotated[str | list[Int], AfterValidator(_is_base64), Bytes("api.ImageData")]
"""The bytes of an image or of a sound, as they were sent: base64, or an array of numbers."""


class ToolCallFunction(GoStruct):
    """Which function a model called, and with what; the arguments keep their order."""

    go_name: ClassVar[str] = "api.ToolCallFunction"

    index: Int = 0
    name: str = ""
    arguments: Annotated[dict[str, Any], Ordered("api.ToolCallFunctionArguments")] = Field(
        default_factory=dict
    )


class ToolCall(GoStruct):
    """One call of a tool."""

    go_name: ClassVar[str] = "api.ToolCall"

    id: str = ""
    function: ToolCallFunction = ToolCallFunction()


class Message(GoStruct):
    """One message of a chat. The role is lower-cased, as in Ollama."""

    go_name: ClassVar[str] = "api.Message"
    go_alias: ClassVar[str] = "api.Alias"

    role: Annotated[str, AfterValidator(str.lower)] = ""
    content: str = ""
    thinking: str = ""
    images: list[ImageData] = Field(default_factory=list)
    tool_calls: list[ToolCall] = Field(default_factory=list)
    tool_name: str = ""
    tool_call_id: str = ""


class ToolProperty(GoStruct):
    """A property of a tool's parameters: as much of JSON schema as Ollama reads."""

    go_name: ClassVar[str] = "api.ToolProperty"

    any_of: list["ToolProperty"] = Field(default=[], alias="anyOf")
    type: Annotated[list[str] | str, Unmarshaler("api.PropertyType", StringOrStrings())] = Field(
        default_factory=list
    )
    items: Any = None
    description: str = ""
    enum: list[Any] = Field(default_factory=list)
    properties: Annotated[dict[str, "ToolProperty"], Ordered("api.ToolPropertiesMap")] = Field(
        default_factory=dict
    )
    required: list[str] = Field(default_factory=list)


class ToolFunctionParameters(GoStruct):
    """The parameters of a tool."""

    go_name: ClassVar[str] = "api.ToolFunctionParameters"

    type: str = ""
    defs: Any = Field(default=None, alias="$defs")
    items: Any = None
    required: list[str] = Field(default_factory=list)
    properties: Annotated[dict[str, ToolProperty], Ordered("api.ToolPropertiesMap")] = Field(
        default_factory=dict
    )


class ToolFunction(GoStruct):
    """What a tool is called, what it is for and what it takes."""

    go_name: ClassVar[str] = "api.ToolFunction"

    name: str = ""
    description: str = ""
    parameters: ToolFunctionParameters = ToolFunctionParameters()


class Tool(GoStruct):
    """A tool that a model may call."""

    go_name: ClassVar[str] = "api.Tool"

    type: str = ""
    items: Any = None
    function: ToolFunction = ToolFunction()


Tools = Annotated[list[Tool], Named("api.Tools")]
