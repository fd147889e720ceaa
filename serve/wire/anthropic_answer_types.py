"""What `/v1/messages` answers, by the types of Ollama's `anthropic` package.

As in `serve.wire.answer_types`: what the OpenAPI document says, and no more.
"""

from typing import ClassVar, Literal

from serve.wire.answer_types import Answer
from serve.wire.anthropic_types import ContentBlock


class Error(Answer):
    """What went wrong."""

    go_name: ClassVar[str] = "anthropic.Error"

    type: Literal[
        "invalid_request_error",
        "authentication_error",
        "permission_error",
        "not_found_error",
        "request_too_large",
        "rate_limit_error",
        "overloaded_error",
        "timeout_error",
        "api_error",
    ]
    message: str


class ErrorResponse(Answer):
    """An error. As an event, where a stream failed after it began, it has no `request_id`."""

    go_name: ClassVar[str] = "anthropic.ErrorResponse"

    type: Literal["error"]
    error: Error
    request_id: str = ""


class Usage(Answer):
    """Tokens; at a stream's begin those of the input are an estimate."""

    go_name: ClassVar[str] = "anthropic.Usage"

    input_tokens: int
    output_tokens: int


class MessagesResponse(Answer):
    """An answer; null content where nothing was said."""

    go_name: ClassVar[str] = "anthropic.MessagesResponse"

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[ContentBlock] | None
    stop_reason: str = ""
    usage: Usage


class MessageStartEvent(Answer):
    """The first event of a stream."""

    go_name: ClassVar[str] = "anthropic.MessageStartEvent"

    type: Literal["message_start"]
    message: MessagesResponse


class ContentBlockStartEvent(Answer):
    """A block begins."""

    go_name: ClassVar[str] = "anthropic.ContentBlockStartEvent"

    type: Literal["content_block_start"]
    index: int
    content_block: ContentBlock


class Delta(Answer):
    """What is new of a block."""

    go_name: ClassVar[str] = "anthropic.Delta"

    type: Literal["text_delta", "thinking_delta", "input_json_delta"]
    text: str = ""
    thinking: str = ""
    partial_json: str = ""


class ContentBlockDeltaEvent(Answer):
    """More of a block."""

    go_name: ClassVar[str] = "anthropic.ContentBlockDeltaEvent"

    type: Literal["content_block_delta"]
    index: int
    delta: Delta


class ContentBlockStopEvent(Answer):
    """A block ends."""

    go_name: ClassVar[str] = "anthropic.ContentBlockStopEvent"

    type: Literal["content_block_stop"]
    index: int


class MessageDelta(Answer):
    """Why it ended."""

    go_name: ClassVar[str] = "anthropic.MessageDelta"

    stop_reason: str = ""


class MessageDeltaEvent(Answer):
    """The counts, when they are known."""

    go_name: ClassVar[str] = "anthropic.MessageDeltaEvent"

    type: Literal["message_delta"]
    delta: MessageDelta
    usage: Usage


class MessageStopEvent(Answer):
    """The last event of a stream."""

    go_name: ClassVar[str] = "anthropic.MessageStopEvent"

    type: Literal["message_stop"]


EVENTS = (
    MessageStartEvent,
    ContentBlockStartEvent,
    ContentBlockDeltaEvent,
    ContentBlockStopEvent,
    MessageDeltaEvent,
    MessageStopEvent,
    ErrorResponse,
)
