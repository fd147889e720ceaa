"""The body of POST /v1/chat/completions, read as Ollama 0.33 reads it (its `openai` types)."""

from typing import Any, ClassVar

from pydantic import Field

from serve.errors import BadRequest
from serve.wire.gostruct import GoRequest, GoStruct, Int, decode
from serve.wire.messages import Tool
from serve.wire.native import Format


class CalledFunction(GoStruct):
    """The function of a tool call, its arguments as JSON text. Go's type has no name."""

    go_name: ClassVar[str] = (
        r'struct { Name string "json:\"name\""; Arguments string "json:\"arguments\"" }'
    )

    name: str = ""
    arguments: str = ""


class ToolCall(GoStruct):
    """One call of a tool."""

    go_name: ClassVar[str] = "openai.ToolCall"

    id: str = ""
    index: Int = 0
    type: str = ""
    function: CalledFunction = CalledFunction()


class Message(GoStruct):
    """One message; the content is a string or a list of parts."""

    go_name: ClassVar[str] = "openai.Message"

    role: str = ""
    content: Any = None
    reasoning: str = ""
    tool_calls: list[ToolCall] | None = None
    name: str = ""
    tool_call_id: str = ""


class StreamOptions(GoStruct):
    """What a stream brings beside its text."""

    go_name: ClassVar[str] = "openai.StreamOptions"

    include_usage: bool = False


class JsonSchema(GoStruct):
    """The schema that an answer must follow."""

    go_name: ClassVar[str] = "openai.JsonSchema"

    schema_: Format = Field(default=None, alias="schema")


class ResponseFormat(GoStruct):
    """`json_object` or `json_schema`; other types are ignored."""

    go_name: ClassVar[str] = "openai.ResponseFormat"

    type: str = ""
    json_schema: JsonSchema | None = None


class Reasoning(GoStruct):
    """How hard to think."""

    go_name: ClassVar[str] = "openai.Reasoning"

    effort: str = ""


class ChatCompletionRequest(GoRequest):
    """The body of POST /v1/chat/completions."""

    go_name: ClassVar[str] = "openai.ChatCompletionRequest"

    model: str = ""
    messages: list[Message] = Field(default_factory=list)
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: Int | None = None
    seed: Int | None = None
    stop: Any = None
    temperature: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    top_p: float | None = None
    response_format: ResponseFormat | None = None
    tools: list[Tool] = Field(default_factory=list)
    reasoning: Reasoning | None = None
    reasoning_effort: str | None = None
    logprobs: bool | None = None
    top_logprobs: Int = 0
    debug_render_only: bool = Field(default=False, alias="_debug_render_only")


def decode_chat(body: bytes) -> ChatCompletionRequest:
    """The request in `body`. Raises `BadRequest` with Ollama's text."""
    request = decode(body, ChatCompletionRequest, empty="EOF")
    if not request.messages:
        raise BadRequest("[] is too short - 'messages'")
    return request
