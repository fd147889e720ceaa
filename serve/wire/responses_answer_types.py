"""What `/v1/responses` answers, by the types of Ollama's `openai` package.

As in `serve.wire.answer_types`: what the OpenAPI document says, and no more.
"""

from typing import Any, ClassVar, Literal

from pydantic import Field

from serve.wire.answer_types import Answer
from serve.wire.responses_input import Summary
from serve.wire.responses_types import Tool


class Fault(Answer):
    """Why a response failed."""

    go_name: ClassVar[str] = "openai.ResponsesError"

    code: str
    message: str


class OutputContent(Answer):
    """A text of a message."""

    go_name: ClassVar[str] = "openai.ResponsesOutputContent"

    type: Literal["output_text"]
    text: str
    annotations: list[Any]
    logprobs: list[Any]


class OutputItem(Answer):
    """A message, what was thought, or a call of a function."""

    go_name: ClassVar[str] = "openai.ResponsesOutputItem"

    id: str
    type: Literal["message", "reasoning", "function_call"]
    status: str = ""
    role: str = ""
    content: list[OutputContent] = Field(default=[])
    call_id: str = ""
    name: str = ""
    arguments: str = ""
    summary: list[Summary] = Field(default=[])
    encrypted_content: str = ""


class OutputFormat(Answer):
    """The format that was asked for."""

    go_name: ClassVar[str] = "openai.ResponsesOutputFormat"

    type: str
    name: str = ""
    schema_: Any = Field(default=None, alias="schema")
    strict: bool = False


class TextField(Answer):
    """How the text is written."""

    go_name: ClassVar[str] = "openai.ResponsesTextField"

    format: OutputFormat


class ReasoningOutput(Answer):
    """How hard it was to think."""

    go_name: ClassVar[str] = "openai.ResponsesReasoningOutput"

    effort: str | None = None
    summary: str | None = None


class ResponsesUsage(Answer):
    """Tokens."""

    go_name: ClassVar[str] = "openai.ResponsesUsage"

    input_tokens: int
    output_tokens: int
    total_tokens: int
    input_tokens_details: dict[str, int]
    output_tokens_details: dict[str, int]


class ResponsesResponse(Answer):
    """A response, with what was asked of it."""

    go_name: ClassVar[str] = "openai.ResponsesResponse"

    id: str
    object: Literal["response"]
    created_at: int
    completed_at: int | None
    status: Literal["in_progress", "completed", "failed"]
    incomplete_details: None
    model: str
    previous_response_id: None
    instructions: str | None
    output: list[OutputItem] | None
    error: Fault | None
    tools: list[Tool]
    tool_choice: Any
    truncation: str
    parallel_tool_calls: bool
    text: TextField
    top_p: float
    presence_penalty: float
    frequency_penalty: float
    top_logprobs: int
    temperature: float
    reasoning: ReasoningOutput | None
    usage: ResponsesUsage | None
    max_output_tokens: int | None
    max_tool_calls: None
    store: bool
    background: bool
    service_tier: str
    metadata: dict[str, Any]
    safety_identifier: None
    prompt_cache_key: None


class ResponsesStreamEvent(Answer):
    """An event of a stream; which fields it has, its type says."""

    go_name: ClassVar[str] = "openai.ResponsesStreamEvent"

    type: str
    sequence_number: int
    response: ResponsesResponse | None = None
    item: OutputItem | None = None
    item_id: str = ""
    output_index: int = 0
    content_index: int = 0
    summary_index: int = 0
    part: OutputContent | None = None
    delta: str = ""
    text: str = ""
    arguments: str = ""
    logprobs: list[Any] = Field(default=[])
    code: str = ""
    message: str = ""
    param: None = None
