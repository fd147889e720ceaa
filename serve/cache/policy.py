"""What may be answered from memory, and what may be kept: pure functions, no state.

`gate` judges a request before anything is asked of anybody. The default, `deterministic`, lets
through what an engine answers the same way twice: embeddings, temperature 0, an explicit seed. What
a Modelfile might set doesn't count: only what the request itself says (absent temperature is 0.8 in
Ollama's native API; the `/v1` dialects fill in their own defaults before this is called).

`unworthy` judges an answer after it ended: only a whole, successful, meaningful one is kept.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeGuard

import msgspec
from msgspec import Struct

from serve.cache.control import NO_CONTROLS, Controls
from serve.settings import Policy
from serve.wire.gojson import names_twice

Bypass = Literal[
    "route",  # not a route whose answers are kept
    "policy",  # `cache.policy` or `cache.models` says off
    "spelling",  # a field under another case, or named twice, which Ollama reads as Go does
    "debug",  # `_debug_render_only`: no generation
    "load",  # no prompt, messages or input: loads or unloads the model
    "sampled",  # neither temperature 0 nor a seed
    "no-store",  # the client's Cache-Control
    "no-cache",  # the client's Cache-Control, or Pragma: a fresh answer, which is kept
    "unkeyable",  # nested too deeply to name
    "paused",  # by an operator
]
Unworthy = Literal[
    "malformed",  # not the lines that the engine's API promises
    "error",  # the engine said so, perhaps in mid-stream
    "incomplete",  # no `done: true` at its end
    "truncated",  # cut by a limit that the caller did not set
    "empty",  # neither text, thinking, tool calls nor vectors
    "tool-json",  # a tool call whose arguments are no object, or which names no function
    "remote",  # computed elsewhere by a cloud model, which no digest here pins
]

GENERATE, CHAT, EMBED, EMBEDDINGS = "/api/generate", "/api/chat", "/api/embed", "/api/embeddings"
_INPUT = {GENERATE: "prompt", CHAT: "messages", EMBED: "input", EMBEDDINGS: "prompt"}
_VECTORS = frozenset({EMBED, EMBEDDINGS})

KNOWN_FIELDS = frozenset(
    {
        *("model", "stream", "options", "keep_alive", "think", "format", "truncate", "shift"),
        *("logprobs", "top_logprobs", "_debug_render_only"),
        *("prompt", "suffix", "system", "template", "context", "raw", "images"),
        *("messages", "tools"),
        *("input", "dimensions"),
    }
)
"""Every field of Ollama's four inference requests (api/types.go)."""

RANDOM_SEED = (1 << 32) - 1
"""llama.cpp keeps seeds in 32 bits and takes the largest for "draw one": Ollama's -1."""


class Verdict(Struct, frozen=True):
    """Whether a request may be answered from memory and its answer kept; if not, why."""

    may_read: bool
    may_store: bool
    reason: Bypass | None = None


CACHEABLE = Verdict(may_read=True, may_store=True)
PAUSED = Verdict(may_read=False, may_store=False, reason="paused")


def gate(
    route: str, native: Mapping[str, Any], policy: Policy, asked: Controls = NO_CONTROLS
) -> Verdict:
    """May this native request be answered from memory?

    What the client asks for comes last. `no-store` (RFC 9111 §5.2.1.5): nothing of the request or
    its answer is kept; and nothing is read, so that it has no trace. `no-cache` (§5.2.1.4): no
    answer from memory without asking the engine, whose answer takes the old one's place.
    """
    reason = _refusal(route, native, policy)
    if reason is None and asked.no_store:
        reason = "no-store"
    if reason is not None:
        return Verdict(may_read=False, may_store=False, reason=reason)
    if asked.no_cache:
        return Verdict(may_read=False, may_store=True, reason="no-cache")
    return CACHEABLE


def _refusal(route: str, native: Mapping[str, Any], policy: Policy) -> Bypass | None:
    if route not in _INPUT:
        return "route"
    if policy == "off":
        return "policy"
    if not _is_generation(route, native):
        return "load" if native.get("_debug_render_only") in (None, False) else "debug"
    if _is_ambiguous(native):
        return "spelling"
    if policy == "always" or route in _VECTORS or _is_repeatable(native.get("options")):
        return None
    return "sampled"


def _is_ambiguous(native: Mapping[str, Any]) -> bool:
    """Would Go read this otherwise than we do? Other cases of names, and names given twice."""
    if any(name not in KNOWN_FIELDS and name.casefold() in KNOWN_FIELDS for name in native):
        return True
    return names_twice(dict(native))


def _is_generation(route: str, native: Mapping[str, Any]) -> bool:
    """Without a prompt, messages or input, Ollama loads or (`keep_alive: 0`) unloads the model."""
    return bool(native.get(_INPUT[route])) and native.get("_debug_render_only") in (None, False)


def _is_repeatable(options: object) -> bool:
    if not isinstance(options, Mapping):
        return False
    temperature, seed = options.get("temperature"), options.get("seed")
    if _is_number(temperature) and temperature == 0:
        return True
    return _is_number(seed) and float(seed).is_integer() and 0 <= seed < RANDOM_SEED


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


class _Function(Struct):
    name: str = ""
    arguments: Any = None


class _ToolCall(Struct):
    function: _Function


class _Message(Struct):
    content: str = ""
    thinking: str = ""
    tool_calls: list[_ToolCall] | None = None


class _Line(Struct):
    """What of a streamed line decides whether the answer is kept."""

    error: Any = msgspec.UNSET
    done: bool = False
    done_reason: str = ""
    response: str = ""
    thinking: str = ""
    tool_calls: list[_ToolCall] | None = None
    message: _Message | None = None
    remote_host: str = ""


class _Vectors(Struct):
    error: Any = msgspec.UNSET
    embeddings: list[list[float]] | None = None
    embedding: list[float] | None = None


_line = msgspec.json.Decoder(_Line).decode
_vectors = msgspec.json.Decoder(_Vectors).decode


def unworthy(route: str, native: Mapping[str, Any], lines: Sequence[bytes]) -> Unworthy | None:
    """Why an answer must not be kept, or None if it may.

    `lines` are the NDJSON lines of a native stream as the engine sent them, or the one body of an
    embedding. Their status was 200; `serve.cache.service` looks at digests and sizes.
    """
    try:
        if route in _VECTORS:
            return _unworthy_vectors(native, lines)
        return _unworthy_text(native, [_line(line) for line in lines])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return "malformed"


def _unworthy_vectors(native: Mapping[str, Any], lines: Sequence[bytes]) -> Unworthy | None:
    answer = _vectors(b"".join(lines))
    if answer.error is not msgspec.UNSET:
        return "error"
    vectors = answer.embeddings if answer.embedding is None else [answer.embedding]
    if not vectors or not all(vectors):
        return "empty"
    asked = native.get("input")
    if isinstance(asked, list) and len(asked) != len(vectors):
        return "incomplete"
    return None


def _unworthy_text(native: Mapping[str, Any], lines: Sequence[_Line]) -> Unworthy | None:
    if any(line.error is not msgspec.UNSET for line in lines):
        return "error"
    if not lines or not lines[-1].done or any(line.done for line in lines[:-1]):
        return "incomplete"
    if any(line.remote_host for line in lines):
        return "remote"
    if lines[-1].done_reason == "length" and not _caps_itself(native.get("options")):
        return "truncated"
    calls = [call for line in lines for call in _calls(line)]
    if not all(call.function.name and type(call.function.arguments) is dict for call in calls):
        return "tool-json"
    return None if calls or any(_has_text(line) for line in lines) else "empty"


def _caps_itself(options: object) -> bool:
    """Did the caller set `num_predict`? 0 and below mean no limit."""
    if not isinstance(options, Mapping):
        return False
    cap = options.get("num_predict")
    return _is_number(cap) and cap >= 1


def _calls(line: _Line) -> list[_ToolCall]:
    nested = line.message.tool_calls if line.message else None
    return [*(line.tool_calls or ()), *(nested or ())]


def _has_text(line: _Line) -> bool:
    message = line.message
    return bool(
        line.response or line.thinking or (message and (message.content or message.thinking))
    )
