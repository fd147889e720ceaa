"""The body of POST /v1/responses, read as Ollama 0.33 reads it (openai/responses.go)."""

from typing import Annotated, Any, ClassVar

from pydantic import Field

from serve.wire import gotypes
from serve.wire.gostruct import GoRequest, GoStruct, Int, decode
from serve.wire.native import Format
from serve.wire.responses_input import Input


class Reasoning(GoStruct):
    """How hard to think, and how to tell of it."""

    go_name: ClassVar[str] = "openai.ResponsesReasoning"

    effort: str = ""
    generate_summary: str = ""
    summary: str = ""


class TextFormat(GoStruct):
    """`text` or `json_schema`; other types are ignored."""

    go_name: ClassVar[str] = "openai.ResponsesTextFormat"

    type: str = ""
    name: str = ""
    schema_: Format = Field(default=None, alias="schema")
    strict: bool | None = None


class Text(GoStruct):
    """How the text is written."""

    go_name: ClassVar[str] = "openai.ResponsesText"

    format: TextFormat | None = None


class Tool(GoStruct):
    """A function, a search, or a namespace with functions in it."""

    go_name: ClassVar[str] = "openai.ResponsesTool"

    type: str = ""
    name: str = ""
    description: str | None = None
    strict: bool | None = None
    parameters: dict[str, Any] | None = None
    tools: list["Tool"] = Field(default=[])


class ResponsesRequest(GoRequest):
    """The body of POST /v1/responses."""

    go_name: ClassVar[str] = "openai.ResponsesRequest"

    model: str = ""
    background: bool = False
    conversation: Annotated[Any, gotypes.Raw()] = None
    include: list[str] = Field(default_factory=list)
    input: Input = ""
    instructions: str = ""
    max_output_tokens: Int | None = None
    reasoning: Reasoning = Reasoning()
    temperature: float | None = None
    text: Text | None = None
    top_p: float | None = None
    truncation: str | None = None
    tools: list[Tool] = Field(default_factory=list)
    stream: bool | None = None


def decode_responses(body: bytes) -> ResponsesRequest:
    """The request in `body`. Raises `BadRequest` with Ollama's text."""
    return decode(body, ResponsesRequest, empty="EOF")
