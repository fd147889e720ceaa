"""POST /v1/completions: the native request that it becomes, and the answer from native lines.

As in Ollama (openai/openai.go): the prompt is one string, temperature and top_p are 1.0 and the
penalties 0 where they are absent, and log probabilities are computed but not shown.
"""

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

import msgspec
from pydantic import AfterValidator, Field

from serve.errors import BadRequest, EngineDied
from serve.wire.collect import collect
from serve.wire.errors import openai_body
from serve.wire.frames import error_text, is_error
from serve.wire.gojson import dumps
from serve.wire.gostruct import GoRequest, Int, decode
from serve.wire.gotypes import FLOAT32_MAX, Float
from serve.wire.openai_types import StreamOptions

_DONE = b"data: [DONE]\n\n"
_NOTHING = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}


def _fits_float32(value: float) -> float:
    if abs(value) >= FLOAT32_MAX:
        raise ValueError("not a float32")
    return value


Float32 = Annotated[float, AfterValidator(_fits_float32), Float("float32")]
"""A number that a float32 can hold. It is passed on with all its digits."""


class CompletionRequest(GoRequest):
    """The body of POST /v1/completions."""

    go_name: ClassVar[str] = "openai.CompletionRequest"

    model: str = ""
    prompt: str = ""
    frequency_penalty: Float32 = 0.0
    max_tokens: Int | None = None
    presence_penalty: Float32 = 0.0
    seed: Int | None = None
    stop: Any = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    temperature: Float32 | None = None
    top_p: Float32 = 0.0
    suffix: str = ""
    logprobs: Int | None = None
    debug_render_only: bool = Field(default=False, alias="_debug_render_only")


def decode_completion(body: bytes) -> CompletionRequest:
    """The request in `body`. Raises `BadRequest` with Ollama's text."""
    return decode(body, CompletionRequest, empty="EOF")


def completion_to_native(request: CompletionRequest) -> dict[str, Any]:
    """The body of /api/generate that asks for the same; what is absent there is left out.

    Raises `BadRequest` with Ollama's text for what it can't translate.
    """
    top = max(request.logprobs or 0, 0)
    native = {"model": request.model, "prompt": request.prompt, "options": _options(request)}
    optional = {
        "suffix": request.suffix,
        "logprobs": top > 0,
        "top_logprobs": top,
        "_debug_render_only": request.debug_render_only,
    }
    return native | {name: value for name, value in optional.items() if value}


def _options(request: CompletionRequest) -> dict[str, Any]:
    options = {
        "stop": _stop(request.stop),
        "num_predict": request.max_tokens,
        "temperature": 1.0 if request.temperature is None else request.temperature,
        "seed": request.seed,
        "frequency_penalty": request.frequency_penalty,
        "presence_penalty": request.presence_penalty,
        "top_p": request.top_p or 1.0,
    }
    return {name: value for name, value in options.items() if value is not None}


def _stop(stop: object) -> list[str] | None:
    """Unlike in chats, a list of anything but strings is refused; what is no list is dropped."""
    if isinstance(stop, str):
        return [stop]
    for item in stop if isinstance(stop, list) else ():
        if not isinstance(item, str):
            raise BadRequest(f"invalid type for 'stop' field: {_go_type(item)}")
    return stop if isinstance(stop, list) and stop else None


def _go_type(value: object) -> str:
    """A decoded value's type as Go's `%T` prints it."""
    kinds = {type(None): "<nil>", bool: "bool", list: "[]interface {}"}
    kinds[dict] = "map[string]interface {}"
    return kinds.get(type(value), "float64")


class CompletionRenderer:
    """One answer, as a stream of events or as a whole.

    The same id, `created` and lines always give the same bytes.
    """

    def __init__(self, request: CompletionRequest, *, number: int, created: int) -> None:
        self._id = f"cmpl-{number}"
        self._created = created
        options = request.stream_options
        self._with_usage = options is not None and options.include_usage

    def chunk(self, native_line: bytes) -> bytes:
        """The event for one native line; after a final one the usage, if asked for, and `[DONE]`.

        With usage asked for, all chunks but the last have one that is zero.
        """
        if is_error(native_line):
            return self.error(error_text(native_line))
        line: dict[str, Any] = msgspec.json.decode(native_line)
        event = {
            **self._head(),
            "choices": [_choice(line)],
            "model": line["model"],
            "system_fingerprint": "fp_ollama",
        }
        events = _event(event | ({"usage": _NOTHING} if self._with_usage else {}))
        if line.get("done") and self._with_usage:
            events += _event(event | {"choices": [], "usage": _usage(line)})
        return events + _DONE if line.get("done") else events

    def whole(self, lines: Sequence[bytes]) -> bytes:
        """The body of an answer that is no stream. Raises as `collect` does."""
        line: dict[str, Any] = msgspec.json.decode(collect(lines, "/api/generate"))
        more = {
            "model": line["model"],
            "system_fingerprint": "fp_ollama",
            "choices": [_choice(line)],
            "usage": _usage(line),
        }
        return dumps(self._head() | more) + b"\n"

    def error(self, message: str) -> bytes:
        """The event that ends a stream that went wrong after it had begun."""
        return b"data: " + openai_body(EngineDied(message), newline=False) + b"\n\n"

    def _head(self) -> dict[str, Any]:
        return {"id": self._id, "object": "text_completion", "created": self._created}


def _choice(line: dict[str, Any]) -> dict[str, Any]:
    reason = line.get("done_reason") or None
    return {"text": line.get("response", ""), "index": 0, "finish_reason": reason}


def _usage(line: dict[str, Any]) -> dict[str, int]:
    prompt, completion = line.get("prompt_eval_count", 0), line.get("eval_count", 0)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }


def _event(data: dict[str, Any]) -> bytes:
    return b"data: " + dumps(data) + b"\n\n"
