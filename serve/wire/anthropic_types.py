"""The body of POST /v1/messages, read as Ollama 0.33 reads it (its `anthropic` types)."""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import Field

from serve.errors import BadRequest
from serve.wire import gotypes
from serve.wire.godecoding import Decoding, DecodingEndedError, Fault, decode, fold
from serve.wire.goscan import Node, Object
from serve.wire.gostruct import GoRequest, GoStruct, Int, Ordered, struct_shape
from serve.wire.gostruct import decode as decode_request

_RAW = r'struct { Role string "json:\"role\""; Content json.RawMessage "json:\"content\"" }'


class Citation(GoStruct):
    """Where a text was found."""

    go_name: ClassVar[str] = "anthropic.Citation"

    type: str = ""
    url: str = ""
    title: str = ""
    encrypted_index: str = ""
    cited_text: str = ""


class ImageSource(GoStruct):
    """An image; only base64 is taken."""

    go_name: ClassVar[str] = "anthropic.ImageSource"

    type: str = ""
    media_type: str = ""
    data: str = ""
    url: str = ""


class ContentBlock(GoStruct):
    """One block of a message: text, an image, thinking, a tool's use or its result."""

    go_name: ClassVar[str] = "anthropic.ContentBlock"

    type: str = ""
    text: str | None = None
    citations: list[Citation] = Field(default_factory=list)
    source: ImageSource | None = None
    id: str = ""
    name: str = ""
    input: Annotated[dict[str, Any] | None, Ordered("api.ToolCallFunctionArguments")] = None
    tool_use_id: str = ""
    content: Any = None
    is_error: bool = False
    thinking: str | None = None
    signature: str = ""


@dataclass(frozen=True, slots=True)
class MessageShape:
    """A message decodes itself: its role, and then its content as a string or as blocks."""

    name: str = "anthropic.MessageParam"

    def take(self, node: Node, decoding: Decoding) -> None:
        """Any fault ends the outer decoding too."""
        fault = decode(node, _MESSAGE) or self._content(node)
        if fault is not None:
            raise DecodingEndedError(decoding.placed(fault))

    def _content(self, node: Node) -> Fault | None:
        pairs = node.pairs if isinstance(node, Object) else []
        found = [value for key, value in pairs if fold(key) == "content"]
        if not found:
            return "unexpected end of JSON input"
        if isinstance(found[-1], str):
            return None
        blocks = gotypes.Slice("[]anthropic.ContentBlock", struct_shape(ContentBlock))
        return decode(found[-1], blocks)


_MESSAGE = gotypes.Struct(_RAW, "", {"role": gotypes.Plain("string"), "content": gotypes.Raw()})


class MessageParam(GoStruct):
    """One message; the content is a string or a list of blocks, and must be there."""

    go_name: ClassVar[str] = "anthropic.MessageParam"

    role: str = ""
    content: list[ContentBlock] | str = ""

    @property
    def blocks(self) -> list[ContentBlock]:
        """The content; a string is one block of text."""
        if isinstance(self.content, str):
            return [ContentBlock(type="text", text=self.content)]
        return self.content


class Tool(GoStruct):
    """A tool that the model may call."""

    go_name: ClassVar[str] = "anthropic.Tool"

    type: str = ""
    name: str = ""
    description: str = ""
    input_schema: Annotated[Any, gotypes.Raw()] = None
    max_uses: Int = 0


class ToolChoice(GoStruct):
    """How to use tools: read, and ignored."""

    go_name: ClassVar[str] = "anthropic.ToolChoice"

    type: str = ""
    name: str = ""
    disable_parallel_tool_use: bool = False


class Thinking(GoStruct):
    """`enabled`, `disabled`, or left to the model."""

    go_name: ClassVar[str] = "anthropic.ThinkingConfig"

    type: str = ""
    budget_tokens: Int = 0


class Metadata(GoStruct):
    """Who asks: read, and ignored."""

    go_name: ClassVar[str] = "anthropic.Metadata"

    user_id: str = ""


class OutputConfig(GoStruct):
    """How hard to think."""

    go_name: ClassVar[str] = "anthropic.OutputConfig"

    effort: str = ""


class MessagesRequest(GoRequest):
    """The body of POST /v1/messages."""

    go_name: ClassVar[str] = "anthropic.MessagesRequest"

    model: str = ""
    max_tokens: Int = 0
    messages: list[Annotated[MessageParam, MessageShape()]] = Field(default_factory=list)
    system: Any = None
    stream: bool = False
    temperature: float | None = None
    top_p: float | None = None
    top_k: Int | None = None
    stop_sequences: list[str] = Field(default_factory=list)
    tools: list[Tool] = Field(default_factory=list)
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    metadata: Metadata | None = None
    output_config: OutputConfig | None = None


def decode_messages(body: bytes) -> MessagesRequest:
    """The request in `body`. Raises `BadRequest` with Ollama's text."""
    request = decode_request(body, MessagesRequest, empty="EOF")
    if any(not _has_content(message) for message in _told(request)):
        raise BadRequest("unexpected end of JSON input")
    if not request.model:
        raise BadRequest("model is required")
    if request.max_tokens <= 0:
        raise BadRequest("max_tokens is required and must be positive")
    if not request.messages:
        raise BadRequest("messages is required")
    return request


def _told(request: MessagesRequest) -> list[Any]:
    found = [value for key, value in request.raw.items() if fold(key) == "messages"]
    return found[-1] if found and isinstance(found[-1], list) else []


def _has_content(message: object) -> bool:
    """A null is an empty text; what isn't there at all is refused."""
    return isinstance(message, dict) and any(fold(key) == "content" for key in message)
