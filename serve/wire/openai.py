"""The OpenAI dialect: chat completions (in modules of their own) and the list of models."""

from typing import Any

import msgspec

from serve.errors import BadRequest, NotFound
from serve.wire import names
from serve.wire.gojson import dumps, unix_seconds
from serve.wire.openai_request import to_native
from serve.wire.openai_response import ID_RANGE, ChatRenderer, completion_id, created_s
from serve.wire.openai_types import ChatCompletionRequest, decode_chat

__all__ = [
    "ID_RANGE",
    "ChatCompletionRequest",
    "ChatRenderer",
    "completion_id",
    "created_s",
    "decode_chat",
    "model_one",
    "models_list",
    "to_native",
]


def models_list(tags_json: bytes) -> bytes:
    """The body of GET /v1/models from that of GET /api/tags; no models are a null, as in Ollama."""
    data = [_model(_id(row), row) for row in _rows(tags_json)]
    return dumps({"object": "list", "data": data or None}) + b"\n"


def model_one(tags_json: bytes, name: str) -> bytes:
    """The body of GET /v1/models/<name>, under the name as it was asked for.

    Raises `NotFound` and `BadRequest` (a name that can't be one) with Ollama's text.
    """
    wanted = names.canonical(name)
    for row in _rows(tags_json):
        if names.canonical(_id(row)) == wanted:
            return dumps(_model(name, row)) + b"\n"
    raise NotFound(f"model '{names.short(name)}' not found")


def _rows(tags_json: bytes) -> list[dict[str, Any]]:
    return msgspec.json.decode(tags_json).get("models") or []


def _id(row: dict[str, Any]) -> str:
    return row.get("model") or row.get("name") or ""


def _model(name: str, row: dict[str, Any]) -> dict[str, Any]:
    created = unix_seconds(row.get("modified_at", ""))
    return {"id": name, "object": "model", "created": created, "owned_by": _namespace(name)}


def _namespace(name: str) -> str:
    try:
        return names.parse(name).namespace
    except BadRequest:
        return ""
