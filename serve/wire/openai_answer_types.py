"""What the routes in OpenAI's dialect answer, by the types of Ollama's `openai` package.

As in `serve.wire.answer_types`: what the OpenAPI document says, and no more.
"""

from typing import Any, ClassVar, Literal

from pydantic import Field

from serve.wire.answer_types import Answer, DebugInfo, Logprob
from serve.wire.openai_types import Message, ToolCall


class Error(Answer):
    """What went wrong."""

    go_name: ClassVar[str] = "openai.Error"

    message: str
    type: Literal["invalid_request_error", "not_found_error", "api_error"]
    param: None
    code: None


class ErrorResponse(Answer):
    """An error. Also an event, where a stream failed after it began."""

    go_name: ClassVar[str] = "openai.ErrorResponse"

    error: Error


class ChoiceLogprobs(Answer):
    """The answer's tokens, and how likely they were."""

    go_name: ClassVar[str] = "openai.ChoiceLogprobs"

    content: list[Logprob]


class Usage(Answer):
    """Tokens."""

    go_name: ClassVar[str] = "openai.Usage"

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Choice(Answer):
    """The answer; there is one."""

    go_name: ClassVar[str] = "openai.Choice"

    index: int
    message: Message
    finish_reason: str | None
    logprobs: ChoiceLogprobs | None = None


class Delta(Answer):
    """What is new."""

    go_name: ClassVar[str] = "openai.Delta"

    role: str = ""
    content: Any = None
    reasoning: str = ""
    tool_calls: list[ToolCall] = Field(default=[])


class ChunkChoice(Answer):
    """What is new of the answer."""

    go_name: ClassVar[str] = "openai.ChunkChoice"

    index: int
    delta: Delta
    finish_reason: str | None
    logprobs: ChoiceLogprobs | None = None


class _Head(Answer):
    """What all begin with. The id is not unique, as in Ollama."""

    id: str
    created: int
    model: str
    system_fingerprint: str


class ChatCompletion(_Head):
    """A whole answer."""

    go_name: ClassVar[str] = "openai.ChatCompletion"

    object: Literal["chat.completion"]
    choices: list[Choice]
    usage: Usage
    debug_info: DebugInfo | None = Field(default=None, alias="_debug_info")


class ChatCompletionChunk(_Head):
    """An event of a stream, which ends with `[DONE]`."""

    go_name: ClassVar[str] = "openai.ChatCompletionChunk"

    object: Literal["chat.completion.chunk"]
    choices: list[ChunkChoice]
    usage: Usage | None = None


class CompleteChunkChoice(Answer):
    """The text, or what is new of it."""

    go_name: ClassVar[str] = "openai.CompleteChunkChoice"

    text: str
    index: int
    finish_reason: str | None


class Completion(_Head):
    """A whole text."""

    go_name: ClassVar[str] = "openai.Completion"

    object: Literal["text_completion"]
    choices: list[CompleteChunkChoice]
    usage: Usage


class CompletionChunk(_Head):
    """An event of a stream, which ends with `[DONE]`."""

    go_name: ClassVar[str] = "openai.CompletionChunk"

    object: Literal["text_completion"]
    choices: list[CompleteChunkChoice]
    usage: Usage | None = None


class Embedding(Answer):
    """A vector: numbers, or float32 in base64 where `encoding_format` asks for it."""

    go_name: ClassVar[str] = "openai.Embedding"

    object: Literal["embedding"]
    embedding: list[float] | str
    index: int


class EmbeddingUsage(Answer):
    """Tokens."""

    go_name: ClassVar[str] = "openai.EmbeddingUsage"

    prompt_tokens: int
    total_tokens: int


class EmbeddingList(Answer):
    """A vector for each input."""

    go_name: ClassVar[str] = "openai.EmbeddingList"

    object: Literal["list", ""]
    data: list[Embedding] | None
    model: str
    usage: EmbeddingUsage


class Model(Answer):
    """A model that is there."""

    go_name: ClassVar[str] = "openai.Model"

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ListCompletion(Answer):
    """The models that are there; null where there are none."""

    go_name: ClassVar[str] = "openai.ListCompletion"

    object: Literal["list"]
    data: list[Model] | None


class TranscriptionResponse(Answer):
    """What was said."""

    go_name: ClassVar[str] = "openai.TranscriptionResponse"

    text: str
