"""POST /v1/responses: the native request that it becomes (openai/responses.go).

As in Ollama nothing is kept between requests: `previous_response_id`, `conversation` and `store`
are ignored, as are `tool_choice`, `include` and `truncation`. Temperature is 1.0 where it is
absent; top_p is left to the model.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from serve.errors import BadRequest
from serve.wire.godecoding import explain
from serve.wire.gojson import document_of, dumps, loads_whole
from serve.wire.gostruct import struct_shape
from serve.wire.messages import ToolFunctionParameters
from serve.wire.openai_request import image_of, in_go_order, think_of
from serve.wire.responses_input import (
    FunctionCall,
    FunctionCallOutput,
    InputFile,
    InputImage,
    InputMessage,
    Item,
    Part,
    ReasoningInput,
)
from serve.wire.responses_types import ResponsesRequest, Tool

_SEARCH = "web_search"
_UNREADABLE = "failed to parse function call arguments"
_NO_OBJECT = "Value looks like object, but can't find closing '}' symbol"


def responses_to_native(request: ResponsesRequest) -> dict[str, Any]:
    """The body of /api/chat that asks for the same; what is absent there is left out.

    Raises `BadRequest` with Ollama's text for what it can't translate.
    """
    native: dict[str, Any] = {
        "model": request.model,
        "messages": _messages(request),
        "options": _options(request),
    }
    think, tools = think_of(request.reasoning.effort), _tools(request.tools)
    wanted = request.text.format if request.text else None
    schema = wanted.schema_ if wanted and wanted.type == "json_schema" else None
    optional = {"tools": tools or None, "format": schema, "think": think}
    return native | {name: value for name, value in optional.items() if value is not None}


def _options(request: ResponsesRequest) -> dict[str, Any]:
    options = {
        "temperature": 1.0 if request.temperature is None else request.temperature,
        "top_p": request.top_p,
        "num_predict": request.max_output_tokens,
    }
    return {name: value for name, value in options.items() if value is not None}


def _messages(request: ResponsesRequest) -> list[dict[str, Any]]:
    said = _Conversation()
    if request.instructions:
        said.messages.append({"role": "system", "content": request.instructions})
    if isinstance(request.input, str):
        if request.input:
            said.messages.append({"role": "user", "content": request.input})
        return said.messages
    for index, item in enumerate(request.input):
        said.take(item, request.input[index + 1] if index + 1 < len(request.input) else None)
    return said.whole()


@dataclass(slots=True)
class _Conversation:
    """The messages so far, and what was thought and not yet said."""

    messages: list[dict[str, Any]] = field(default_factory=list)
    thinking: str = ""

    def take(self, item: Item, following: Item | None) -> None:
        """Add one item. A search made before is no message: the one after it says what it found."""
        match item:
            case ReasoningInput():
                self.thinking = item.encrypted_content
            case InputMessage():
                self._message(item, following)
            case FunctionCall():
                self._call(item)
            case FunctionCallOutput():
                fields = {**_content(item.output), "tool_call_id": item.call_id}
                self.messages.append({"role": "tool"} | _without_empty(fields))

    def whole(self) -> list[dict[str, Any]]:
        """All of them; thoughts that nothing followed are a message of their own."""
        if self.thinking:
            self.messages.append({"role": "assistant", "content": ""} | self._thought())
        return self.messages

    def _thought(self) -> dict[str, str]:
        """What was thought, for the message that says it; it is said once."""
        thinking, self.thinking = self.thinking, ""
        return {"thinking": thinking} if thinking else {}

    def _message(self, item: InputMessage, following: Item | None) -> None:
        message = {"role": item.role} | _content(item.content)
        is_own = item.role == "assistant"
        message |= self._thought() if is_own else {}
        answered = following.call_id if isinstance(following, FunctionCallOutput) else ""
        if is_own and answered and self._calls(answered):
            self._say_with_call(message)
        else:
            self.messages.append(message)

    def _calls(self, call_id: str) -> bool:
        """Is the last message the model's, with this call? Its result must come right after it."""
        last = self.messages[-1] if self.messages else {}
        return last.get("role") == "assistant" and any(
            call.get("id", "") == call_id for call in last.get("tool_calls", ())
        )

    def _say_with_call(self, message: dict[str, Any]) -> None:
        last = self.messages[-1]
        last["content"] = "\n".join(filter(None, (last["content"], message["content"])))
        if "images" in message:
            last["images"] = last.get("images", []) + message["images"]
        if "thinking" in message:
            last["thinking"] = message["thinking"]

    def _call(self, item: FunctionCall) -> None:
        """A call, in the model's message before it if there is one."""
        function = {"index": 0, "name": item.name, "arguments": _arguments(item.arguments)}
        call = ({"id": item.call_id} if item.call_id else {}) | {"function": function}
        if not (self.messages and self.messages[-1]["role"] == "assistant"):
            self.messages.append({"role": "assistant", "content": ""})
        self.messages[-1].setdefault("tool_calls", []).append(call)
        self.messages[-1] |= self._thought()


def _without_empty(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value or name == "content"}


def _content(parts: Sequence[Part] | str) -> dict[str, Any]:
    """The texts together, and the images."""
    if isinstance(parts, str):
        return {"content": parts}
    texts, images = "", []
    for part in parts:
        if isinstance(part, InputFile):
            raise BadRequest("file inputs are not currently supported")
        if not isinstance(part, InputImage):
            texts += part.text
        elif part.image_url:
            images.append(image_of(part.image_url))
    return _without_empty({"content": texts, "images": images})


def _arguments(text: str) -> dict[str, Any] | None:
    """In the order they were sent; objects within them are sorted, as Go prints its maps."""
    try:
        arguments = loads_whole(text.encode()) if text else {}
    except BadRequest as fault:
        raise BadRequest(f"{_UNREADABLE}: {fault}") from None
    if arguments is None:
        return None
    if not isinstance(arguments, dict):
        raise BadRequest(f"{_UNREADABLE}: {_NO_OBJECT}")
    return {name: in_go_order(value) for name, value in arguments.items()}


def _tools(tools: Sequence[Tool]) -> list[dict[str, Any]]:
    """A search on the server's side hides a function of the caller's with that name."""
    searches = any(tool.type == _SEARCH for tool in tools)
    told: list[dict[str, Any]] = []
    for tool in tools:
        if tool.type == _SEARCH:
            told.append(_SEARCH_FUNCTION)
        else:
            functions = _functions(tool)
            told += [f for f in functions if not searches or f["function"]["name"] != _SEARCH]
    return told


def _functions(tool: Tool) -> list[dict[str, Any]]:
    """The function; of a namespace its functions, under names that begin with its own."""
    if tool.type != "namespace":
        return [_function(tool)]
    found = [function for member in tool.tools for function in _functions(member)]
    start = f"{tool.name}." if tool.name else ""
    for function in found:
        name = function["function"]["name"]
        function["function"]["name"] = name if name.startswith(start) else start + name
    return found


def _function(tool: Tool) -> dict[str, Any]:
    function: dict[str, Any] = {"name": tool.name}
    function |= {"description": tool.description} if tool.description else {}
    if tool.parameters is not None:
        function["parameters"] = _parameters(in_go_order(tool.parameters))
    return {"type": tool.type, "function": function}


def _parameters(parameters: dict[str, Any]) -> dict[str, Any]:
    """Raises `BadRequest` for what Go refuses to read as a tool's parameters."""
    try:
        ToolFunctionParameters.model_validate(parameters)
    except ValidationError:
        text = explain(document_of(dumps(parameters)), struct_shape(ToolFunctionParameters))
        if text is not None:
            raise BadRequest(f"failed to unmarshal tool parameters: {text}") from None
    return parameters


_SEARCH_FUNCTION = {
    "type": "function",
    "function": {
        "name": _SEARCH,
        "description": "Search the web for current information.",
        "parameters": {
            "type": "object",
            "required": ["query"],
            "properties": {"query": {"type": "string", "description": "The search query."}},
        },
    },
}
"""A search is the caller's to make: nothing here reaches the web. The model's call is passed on."""
