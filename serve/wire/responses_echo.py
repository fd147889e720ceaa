"""What an answer of /v1/responses repeats of its request, among the fields that never change.

Ollama has two printers for it, for whole answers and for streams, which differ in what they leave
out; so has this.
"""

from typing import Any

import msgspec

from serve.wire.gojson import dumps
from serve.wire.openai_request import in_go_order
from serve.wire.responses_types import ResponsesRequest, TextFormat, Tool


def echoed(request: ResponsesRequest, *, id: str, created: int, output: object) -> dict[str, Any]:
    """A whole answer's object, in the order of Go's struct, but for its end: when it was
    completed, its status and its usage."""
    tools = [_tool(tool) for tool in request.tools]
    reasoning = {name: value for name, value in _reasoning(request).items() if value}
    return _object(request, id, created, output) | {"tools": tools, "reasoning": reasoning or None}


def echoed_in_stream(
    request: ResponsesRequest, *, id: str, created: int, output: object
) -> dict[str, Any]:
    """The same in a stream's events: no members of namespaces, and nulls for reasoning's fields."""
    tools = [_tool(tool) for tool in request.tools]
    for tool in tools:
        tool.pop("tools", None)
    reasoning = {name: value or None for name, value in _reasoning(request).items()}
    told = reasoning if any(reasoning.values()) else None
    return _object(request, id, created, output) | {"tools": tools, "reasoning": told}


def _object(request: ResponsesRequest, id: str, created: int, output: object) -> dict[str, Any]:
    wanted = request.text.format if request.text else None
    return {
        "id": id,
        "object": "response",
        "created_at": created,
        "completed_at": None,
        "status": "",
        "incomplete_details": None,
        "model": request.model,
        "previous_response_id": None,
        "instructions": request.instructions or None,
        "output": output,
        "error": None,
        "tools": [],
        "tool_choice": "auto",
        "truncation": "disabled" if request.truncation is None else request.truncation,
        "parallel_tool_calls": True,
        "text": {"format": {"type": "text"} if wanted is None else _format(wanted)},
        "top_p": 1.0 if request.top_p is None else request.top_p,
        "presence_penalty": 0,
        "frequency_penalty": 0,
        "top_logprobs": 0,
        "temperature": 1.0 if request.temperature is None else request.temperature,
        "reasoning": None,
        "usage": None,
        "max_output_tokens": request.max_output_tokens,
        "max_tool_calls": None,
        "store": False,
        "background": request.background,
        "service_tier": "default",
        "metadata": {},
        "safety_identifier": None,
        "prompt_cache_key": None,
    }


def _reasoning(request: ResponsesRequest) -> dict[str, str]:
    return {"effort": request.reasoning.effort, "summary": request.reasoning.summary}


def _format(wanted: TextFormat) -> dict[str, Any]:
    """The schema is printed as it was sent, not with its keys sorted."""
    more = {
        "name": wanted.name or None,
        "schema": None if wanted.schema_ is None else msgspec.Raw(dumps(wanted.schema_)),
        "strict": wanted.strict,
    }
    return {"type": wanted.type} | {name: v for name, v in more.items() if v is not None}


def _tool(tool: Tool) -> dict[str, Any]:
    told = {
        "type": tool.type,
        "name": tool.name,
        "description": tool.description,
        "strict": tool.strict,
        "parameters": in_go_order(tool.parameters),
    }
    return told | ({"tools": [_tool(member) for member in tool.tools]} if tool.tools else {})
