"""POST /v1/chat/completions: the native request that it becomes.

What Ollama ignores (`n`, `tool_choice`, `logit_bias`, `max_completion_tokens`, `options`, …) is
ignored here. Unlike on the native routes, temperature and top_p are 1.0 where they are absent.
"""

import base64
from typing import Any

from serve.errors import BadRequest
from serve.wire.gobase64 import corrupt_at
from serve.wire.gojson import loads_whole
from serve.wire.messages import Tool
from serve.wire.native import quoted
from serve.wire.openai_types import ChatCompletionRequest, Message, ResponseFormat, ToolCall

_THINK: dict[str, bool | str] = {
    "none": False,
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "max",
    "ultra": "max",
    "max": "max",
}
_EFFORTS = '"minimal", "low", "medium", "high", "xhigh", "ultra", "max", or "none"'
_IMAGE_STARTS = (
    "data:;base64,",
    *(f"data:image/{t};base64," for t in ("jpeg", "jpg", "png", "webp")),
)


def to_native(request: ChatCompletionRequest) -> dict[str, Any]:
    """The body of /api/chat that asks for the same; what is absent there is left out.

    Raises `BadRequest` with Ollama's text for what it can't translate.
    """
    native: dict[str, Any] = {
        "model": request.model,
        "messages": _messages(request.messages),
        "stream": request.stream,
    }
    optional = {
        "format": _format(request.response_format),
        "tools": [_tool(tool) for tool in request.tools] or None,
        "options": _options(request),
        "think": _think(request),
        "_debug_render_only": request.debug_render_only or None,
        "logprobs": request.logprobs or None,
        "top_logprobs": request.top_logprobs or None,
    }
    return native | {name: value for name, value in optional.items() if value is not None}


def _tool(tool: Tool) -> dict[str, Any]:
    """As it was sent, in the order of Ollama's own types, unknown fields last."""
    return tool.model_dump(by_alias=True, exclude_unset=True)


def _options(request: ChatCompletionRequest) -> dict[str, Any]:
    options = {
        "frequency_penalty": request.frequency_penalty,
        "num_predict": request.max_tokens,
        "presence_penalty": request.presence_penalty,
        "seed": request.seed,
        "stop": _stop(request.stop),
        "temperature": 1.0 if request.temperature is None else request.temperature,
        "top_p": 1.0 if request.top_p is None else request.top_p,
    }
    return {name: value for name, value in options.items() if value is not None}


def _stop(stop: object) -> list[str] | None:
    """What can't be a stop sequence is dropped without a word."""
    if isinstance(stop, str):
        return [stop]
    texts = [item for item in stop if isinstance(item, str)] if isinstance(stop, list) else []
    return texts or None


def _format(wanted: ResponseFormat | None) -> object:
    kind = wanted.type.strip().lower() if wanted else ""
    if kind == "json_object":
        return "json"
    if wanted and kind == "json_schema" and wanted.json_schema:
        return wanted.json_schema.schema_
    return None


def _think(request: ChatCompletionRequest) -> bool | str | None:
    effort = request.reasoning.effort if request.reasoning else request.reasoning_effort or ""
    return think_of(effort)


def think_of(effort: str) -> bool | str | None:
    """Ollama's word for OpenAI's effort; None leaves it to the model. Raises `BadRequest`."""
    if effort and effort not in _THINK:
        raise BadRequest(f"invalid reasoning value: {quoted(effort)} (must be {_EFFORTS})")
    return _THINK.get(effort)


def _messages(messages: list[Message]) -> list[dict[str, Any]]:
    native: list[dict[str, Any]] = []
    for message in messages:
        if isinstance(message.content, str):
            native.append(_text(message, messages))
        elif isinstance(message.content, list):
            native.extend(_part(message.role, part) for part in message.content)
            if native and message.tool_calls:
                native[-1] |= _calls(message, _tool_name(message, messages))
        else:
            native.append(_without_content(message))
    return native


def _text(message: Message, messages: list[Message]) -> dict[str, Any]:
    native = {"role": message.role, "content": message.content}
    return native | _calls(message, _tool_name(message, messages))


def _without_content(message: Message) -> dict[str, Any]:
    """Content may only be absent where there are tool calls."""
    if message.tool_calls is None:
        raise BadRequest(f"invalid message content type: {_go_type(message.content)}")
    return {"role": message.role, "content": ""} | _calls(message, "")


def _calls(message: Message, tool_name: str) -> dict[str, Any]:
    """Thinking, tool calls and whose result this is, without what is empty."""
    fields = {
        "thinking": message.reasoning,
        "tool_calls": [_call(call) for call in message.tool_calls or ()],
        "tool_name": tool_name,
        "tool_call_id": message.tool_call_id,
    }
    return {name: value for name, value in fields.items() if value}


def _call(call: ToolCall) -> dict[str, Any]:
    function = {"index": 0, "name": call.function.name, "arguments": _arguments(call)}
    return ({"id": call.id} if call.id else {}) | {"function": function}


def _arguments(call: ToolCall) -> dict[str, Any] | None:
    """In the order they were sent; objects within them are sorted, as Go prints its maps."""
    try:
        arguments = loads_whole(call.function.arguments.encode())
    except BadRequest:
        raise BadRequest("invalid tool call arguments") from None
    if arguments is None:
        return None
    if not isinstance(arguments, dict):
        raise BadRequest("invalid tool call arguments")
    return {name: in_go_order(value) for name, value in arguments.items()}


def in_go_order(value: Any) -> Any:
    """A value with the keys of its objects sorted, as Go prints its maps."""
    if isinstance(value, dict):
        return {name: in_go_order(value[name]) for name in sorted(value, key=str.encode)}
    return [in_go_order(item) for item in value] if isinstance(value, list) else value


def _tool_name(message: Message, messages: list[Message]) -> str:
    """The name of the tool whose result this is, by its own word or by the call's id."""
    if message.role.lower() != "tool" or message.name or not message.tool_call_id:
        return message.name if message.role.lower() == "tool" else ""
    for other in reversed(messages):
        for call in other.tool_calls or ():
            if call.id == message.tool_call_id:
                return call.function.name
    return ""


def _part(role: str, part: object) -> dict[str, Any]:
    kind = part.get("type") if isinstance(part, dict) else None
    if not isinstance(part, dict) or kind not in ("text", "image_url", "input_audio"):
        raise BadRequest("invalid message format")
    if kind == "text":
        if not isinstance(part.get("text"), str):
            raise BadRequest("invalid message format")
        return {"role": role, "content": part["text"]}
    data = _image(part.get("image_url")) if kind == "image_url" else _sound(part.get("input_audio"))
    return {"role": role, "content": "", "images": [data]}


def _image(value: object) -> str:
    url = value.get("url") if isinstance(value, dict) else value
    if not isinstance(url, str):
        raise BadRequest("invalid message format")
    return image_of(url)


def image_of(url: str) -> str:
    """The image in a `data:` URL, in base64. Raises `BadRequest` with Ollama's text."""
    if url.startswith(("http://", "https://")):
        raise BadRequest(
            "image URLs are not currently supported, please use base64 encoded data instead"
        )
    start = next((start for start in _IMAGE_STARTS if url.startswith(start)), None)
    if start is None or corrupt_at(url.removeprefix(start)) is not None:
        raise BadRequest("invalid image input")
    return reencoded(url.removeprefix(start))


def _sound(value: object) -> str:
    if not isinstance(value, dict):
        raise BadRequest("invalid input_audio format")
    data = value.get("data")
    if not isinstance(data, str):
        raise BadRequest("invalid input_audio format: missing data")
    at = corrupt_at(data)
    if at is not None:
        fault = f"illegal base64 data at input byte {at}"
        raise BadRequest(f"invalid input_audio base64 data: {fault}")
    return reencoded(data)


def reencoded(data: str) -> str:
    """Base64 without line breaks and loose bits, so that the same bytes look the same."""
    return base64.b64encode(base64.b64decode(data)).decode()


def _go_type(value: object) -> str:
    """A decoded value's type as Go's `%T` prints it."""
    if value is None:
        return "<nil>"
    if isinstance(value, bool):
        return "bool"
    return "map[string]interface {}" if isinstance(value, dict) else "float64"
