"""Error bodies, in the dialect that the client speaks.

Ollama has two ways to send an error, and clients see the difference: what is wrong with the form of
a request is answered by the route itself (`origin="form"`), what the model's side says passes
through a writer that has its own content type and, in the OpenAI dialect, a newline at the end
(`origin="model"`).
"""

import secrets
from typing import Literal

from msgspec import Struct

from serve.errors import CapacityError, RayllamaError
from serve.wire.gojson import dumps

Origin = Literal["form", "model"]

JSON = "application/json"
JSON_UTF8 = "application/json; charset=utf-8"

_ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}
"""As Ollama's, which never sends 413 and 504: those are called what Anthropic calls them."""

_ANTHROPIC_STATUSES = {503: 529}
"""Ollama says 503 with the type `overloaded_error`; Anthropic's own status for that type is 529,
and only for that do its libraries raise their `OverloadedError`."""

_OPENAI_TYPES = {400: "invalid_request_error", 404: "not_found_error"}


class Rendered(Struct, frozen=True):
    """An answer as it goes out; `retry_after_s` is for a header, where a retry makes sense."""

    status: int
    content_type: str
    body: bytes
    retry_after_s: int | None = None


def native_error(error: RayllamaError, origin: Origin = "form") -> Rendered:
    """The answer of `/api/…` routes: the model's side says plain `application/json` when the
    request was for a stream."""
    content_type = JSON if origin == "model" else JSON_UTF8
    return Rendered(error.status, content_type, native_body(error), _retry_after_s(error))


def openai_error(error: RayllamaError, origin: Origin = "form") -> Rendered:
    """The answer of `/v1/…` routes."""
    from_model = origin == "model"
    content_type = JSON if from_model else JSON_UTF8
    body = openai_body(error, newline=from_model)
    return Rendered(error.status, content_type, body, _retry_after_s(error))


def anthropic_error(error: RayllamaError, origin: Origin = "form") -> Rendered:
    """The answer of `/v1/messages`."""
    from_model = origin == "model"
    content_type = JSON if from_model else JSON_UTF8
    body = anthropic_body(error) | {"request_id": f"req_{secrets.token_hex(12)}"}
    end = b"\n" if from_model else b""
    status = _ANTHROPIC_STATUSES.get(error.status, error.status)
    return Rendered(status, content_type, dumps(body) + end, _retry_after_s(error))


def native_body(error: RayllamaError) -> bytes:
    """`{"error":"text"}`; with a newline it is the last line of a stream."""
    return dumps({"error": str(error)})


def openai_body(error: RayllamaError, *, newline: bool) -> bytes:
    """`{"error":{"message":…,"type":…,"param":null,"code":null}}`."""
    body = {
        "message": str(error),
        "type": _OPENAI_TYPES.get(error.status, "api_error"),
        "param": None,
        "code": None,
    }
    return dumps({"error": body}) + (b"\n" if newline else b"")


def anthropic_body(error: RayllamaError) -> dict[str, object]:
    """`{"type":"error","error":{"type":…,"message":…}}`: an error event, or most of an answer."""
    kind = _ANTHROPIC_TYPES.get(error.status, "api_error")
    return {"type": "error", "error": {"type": kind, "message": str(error)}}


def _retry_after_s(error: RayllamaError) -> int | None:
    if isinstance(error, CapacityError):
        return error.retry_after_s
    return 1 if error.status == 503 else None  # an engine that is full, or not up
