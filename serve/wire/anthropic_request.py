"""POST /v1/messages: the native request that it becomes.

As in Ollama (anthropic/anthropic.go): `tool_choice`, `metadata`, `cache_control` and the budget for
thinking are ignored, and what is absent is left to the model's own defaults.
"""

from typing import Any

from pydantic import ValidationError

from serve.errors import BadRequest
from serve.wire.anthropic_types import ContentBlock, MessageParam, MessagesRequest, Tool
from serve.wire.gobase64 import corrupt_at
from serve.wire.godecoding import explain
from serve.wire.gojson import document_of, dumps
from serve.wire.gostruct import struct_shape
from serve.wire.messages import ToolFunctionParameters
from serve.wire.native import quoted
from serve.wire.openai_request import in_go_order, reencoded

_EFFORTS = ("high", "medium", "low", "max")
_SEARCH = "web_search"


def messages_to_native(request: MessagesRequest) -> dict[str, Any]:
    """The body of /api/chat that asks for the same; what is absent there is left out.

    Raises `BadRequest` with Ollama's text for what it can't translate.
    """
    messages = _system(request.system)
    for message in request.messages:
        messages += _message(message)
    tools, think = _tools(request.tools), _think(request)
    native = {"model": request.model, "messages": messages, "options": _options(request)}
    native |= {"tools": tools} if tools else {}
    return native | ({} if think is None else {"think": think})


def _system(system: object) -> list[dict[str, Any]]:
    text = system if isinstance(system, str) else _texts(system)
    return [{"role": "system", "content": text}] if text else []


def _texts(blocks: object) -> str:
    """The texts among some blocks, put together."""
    texts = [
        block.get("text")
        for block in (blocks if isinstance(blocks, list) else ())
        if isinstance(block, dict) and block.get("type") == "text"
    ]
    return "".join(text for text in texts if isinstance(text, str))


def _options(request: MessagesRequest) -> dict[str, Any]:
    options = {
        "num_predict": request.max_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "top_k": request.top_k,
        "stop": request.stop_sequences or None,
    }
    return {name: value for name, value in options.items() if value is not None}


def _think(request: MessagesRequest) -> bool | str | None:
    kind = request.thinking.type if request.thinking else ""
    if kind in ("enabled", "disabled"):
        return kind == "enabled"
    effort = request.output_config.effort.strip().lower() if request.output_config else ""
    effort = "high" if effort == "xhigh" else effort
    return effort if effort in _EFFORTS else None


def _message(message: MessageParam) -> list[dict[str, Any]]:
    """The message, and before it, or after what isn't a user's, the results of tools."""
    said = _Said()
    for block in message.blocks:
        said.take(block)
    role = message.role.lower()
    own = [{"role": role} | said.fields] if any(said.fields.values()) else []
    return said.results + own if role == "user" else own + said.results


class _Said:
    """What the blocks of one message say together."""

    def __init__(self) -> None:
        self.results: list[dict[str, Any]] = []
        self._text = ""
        self._more: dict[str, Any] = {}

    @property
    def fields(self) -> dict[str, Any]:
        """The message's own, without what is empty."""
        return {"content": self._text} | {
            name: value for name, value in self._more.items() if value
        }

    def take(self, block: ContentBlock) -> None:
        """Add one block; those of unknown types are ignored."""
        match block.type:
            case "text":
                self._text += block.text or ""
            case "image":
                self._more.setdefault("images", []).append(_image(block))
            case "thinking":
                if block.thinking is not None:
                    self._more["thinking"] = block.thinking
            case "tool_use" | "server_tool_use":
                self._more.setdefault("tool_calls", []).append(_call(block))
            case "tool_result":
                self.results.append(_result(block, *_told(block.content)))
            case "web_search_tool_result":
                self.results.append(_result(block, _found(block.content), []))


def _result(block: ContentBlock, text: str, images: list[str]) -> dict[str, Any]:
    result: dict[str, Any] = {"role": "tool", "content": text}
    result |= {"images": images} if images else {}
    return result | ({"tool_call_id": block.tool_use_id} if block.tool_use_id else {})


def _call(block: ContentBlock) -> dict[str, Any]:
    for name in ("id", "name"):
        if block.type == "tool_use" and not getattr(block, name):
            raise BadRequest(f"tool_use block missing required '{name}' field")
    arguments = {name: in_go_order(value) for name, value in (block.input or {}).items()}
    function = {"index": 0, "name": block.name, "arguments": arguments}
    return ({"id": block.id} if block.id else {}) | {"function": function}


def _image(block: ContentBlock) -> str:
    if block.source is None:
        raise BadRequest("invalid image source")
    return _data(block.source.type, block.source.data)


def _data(kind: object, data: object) -> str:
    kind = kind if isinstance(kind, str) else ""
    if kind != "base64":
        raise BadRequest(f"invalid image source type: {kind}. Only base64 images are supported.")
    data = data if isinstance(data, str) else ""
    at = corrupt_at(data)
    if at is not None:
        fault = f"illegal base64 data at input byte {at}"
        raise BadRequest(f"invalid base64 image data: {fault}")
    return reencoded(data)


def _told(content: object) -> tuple[str, list[str]]:
    """The text and the images of a tool's result."""
    if isinstance(content, str):
        return content, []
    images: list[str] = []
    for block in content if isinstance(content, list) else ():
        if isinstance(block, dict) and block.get("type") == "image":
            source = block.get("source")
            if not isinstance(source, dict):
                raise BadRequest("invalid tool_result image source")
            images.append(_data(source.get("type"), source.get("data")))
    return _texts(content), images


def _found(content: object) -> str:
    """What a search on the server's side found, a line each; or how it failed."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list) and not _is_failure(content):
        return dumps(in_go_order(content)).decode()
    lines: list[str] = []
    items: list[Any] = content if isinstance(content, list) else [content]
    for item in items:
        if _is_failure(item):
            code = item.get("error_code")
            return "web_search_tool_result_error" + (f": {code}" if isinstance(code, str) else "")
        if isinstance(item, dict) and item.get("type") == "web_search_result":
            title, url = (item[k] if isinstance(item.get(k), str) else "" for k in ("title", "url"))
            lines.append(f"- {title}: {url}\n")
    return "".join(lines)


def _is_failure(item: Any) -> bool:
    return isinstance(item, dict) and item.get("type") == "web_search_tool_result_error"


def _tools(tools: list[Tool]) -> list[dict[str, Any]]:
    """A search on the server's side hides a tool of the caller's with that name."""
    searches = any(tool.type.startswith(_SEARCH) for tool in tools)
    return [
        _tool(tool)
        for tool in tools
        if not searches or tool.type.startswith(_SEARCH) or tool.name != _SEARCH
    ]


def _tool(tool: Tool) -> dict[str, Any]:
    if tool.type.startswith(_SEARCH):
        return {"type": "function", "function": _SEARCH_FUNCTION}
    function = {"name": tool.name}
    function |= {"description": tool.description} if tool.description else {}
    function |= {} if tool.input_schema is None else {"parameters": _schema(tool)}
    return {"type": "function", "function": function}


def _schema(tool: Tool) -> Any:
    """As it was sent. Raises `BadRequest` for what Go refuses to read as one."""
    try:
        ToolFunctionParameters.model_validate(tool.input_schema)
    except ValidationError:
        document = document_of(dumps(tool.input_schema))
        text = explain(document, struct_shape(ToolFunctionParameters))
        if text is not None:
            place = f"invalid input_schema for tool {quoted(tool.name)}"
            raise BadRequest(f"{place}: {text}") from None
    return tool.input_schema


_SEARCH_FUNCTION = {
    "name": _SEARCH,
    "description": "Look something up on the web, where an answer needs what is new.",
    "parameters": {
        "type": "object",
        "required": ["query"],
        "properties": {"query": {"type": "string", "description": "What to look for"}},
    },
}
"""A search is the caller's to make: nothing here reaches the web. The model's call is passed on."""
