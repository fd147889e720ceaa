"""The bodies of Ollama's own routes, read as Ollama 0.33 reads them.

Fields that are not known here survive, in `request.raw` and as pydantic's extra fields.
"""

from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import BeforeValidator, Field

from serve.wire.goscan import Node, Number, Object
from serve.wire.gostruct import GoRequest, Int, decode
from serve.wire.gotime import parse_duration
from serve.wire.gotypes import Any as AnyValue
from serve.wire.gotypes import Parsed, Raw, Unmarshaler
from serve.wire.messages import ImageData, Message, Tools

__all__ = [
    "ChatRequest",
    "EmbedRequest",
    "EmbeddingsRequest",
    "GenerateRequest",
    "ShowRequest",
    "decode",
]

FOR_EVER = -1.0
_LARGEST_S = ((1 << 63) - 1) / 1e9
Level = Literal["high", "medium", "low", "max"]
_LEVELS = get_args(Level)
_CHOICE = '"high", "medium", "low", "max", true, or false'


def keep_alive_s(value: object) -> float:
    """Seconds from a number of them or from a Go duration (`5m`); negative is for ever.

    Raises `ValueError` with Ollama's text.
    """
    if isinstance(value, str):
        seconds = parse_duration(value) / 1e9
    elif isinstance(value, int | float) and not isinstance(value, bool):
        seconds = float(value)
    else:
        raise ValueError(f"Unsupported type: '{_go_kind(value)}'")  # noqa: TRY004 - pydantic's way
    return seconds if 0 <= seconds < _LARGEST_S else FOR_EVER


def think_value(value: object) -> bool | str:
    """True, false or a level. Raises `ValueError` with Ollama's text."""
    if isinstance(value, bool):
        return value
    if not isinstance(value, str):
        raise ValueError(f"think must be a boolean or string ({_CHOICE})")  # noqa: TRY004 - as above
    if value not in _LEVELS:
        raise ValueError(f"invalid think value: {quoted(value)} (must be {_CHOICE})")
    return value


def quoted(text: str) -> str:
    """A string as Go's `%q` prints it."""
    shown: list[str] = []
    for character in text:
        code = ord(character)
        if character in _NAMED:
            shown.append(_NAMED[character])
        elif character.isprintable():
            shown.append(character)
        elif code < 0x80:
            shown.append(f"\\x{code:02x}")
        else:
            shown.append(f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}")
    return '"' + "".join(shown) + '"'


_NAMED = dict(zip('"\\\a\b\f\n\r\t\v', [r"\"", r"\\", *(f"\\{c}" for c in "abfnrtv")], strict=True))


def _go_kind(value: object) -> str:
    if isinstance(value, bool):
        return "bool"
    return "[]interface {}" if isinstance(value, list) else "map[string]interface {}"


def _plain(node: Node) -> object:
    """A scanned value, near enough for the two functions above."""
    if isinstance(node, Number):
        return float(node.text)
    return {} if isinstance(node, Object) else node


KeepAlive = Annotated[
    float | None,
    BeforeValidator(keep_alive_s, json_schema_input_type=float | str | None),
    Unmarshaler(
        "api.Duration", Parsed("api.Duration", lambda node: keep_alive_s(_plain(node)), AnyValue())
    ),
]
Think = Annotated[
    bool | str | None,
    BeforeValidator(think_value, json_schema_input_type=bool | Level | None),
    Unmarshaler(
        "api.ThinkValue", Parsed("api.ThinkValue", lambda node: think_value(_plain(node)), Raw())
    ),
]
Format = Annotated[Any, Raw()]


class _Sampling(GoRequest):
    """What generate and chat have in common."""

    model: str = ""
    stream: bool | None = None
    format: Format = None
    keep_alive: KeepAlive = None
    options: dict[str, Any] = Field(default_factory=dict)
    think: Think = None
    truncate: bool | None = None
    shift: bool | None = None
    debug_render_only: bool = Field(default=False, alias="_debug_render_only")
    logprobs: bool = False
    top_logprobs: Int = 0


class GenerateRequest(_Sampling):
    """POST /api/generate. The body's own `raw` is `raw_mode` here: `raw` is the whole object."""

    go_name: ClassVar[str] = "api.GenerateRequest"

    prompt: str = ""
    suffix: str = ""
    system: str = ""
    template: str = ""
    context: list[Int] = Field(default_factory=list)
    raw_mode: bool = Field(default=False, alias="raw")
    images: list[ImageData] = Field(default_factory=list)


class ChatRequest(_Sampling):
    """POST /api/chat."""

    go_name: ClassVar[str] = "api.ChatRequest"

    messages: list[Message] = Field(default_factory=list)
    tools: Tools = Field(default_factory=list)


class EmbedRequest(GoRequest):
    """POST /api/embed."""

    go_name: ClassVar[str] = "api.EmbedRequest"

    model: str = ""
    input: Any = None
    keep_alive: KeepAlive = None
    truncate: bool | None = None
    dimensions: Int = 0
    options: dict[str, Any] = Field(default_factory=dict)


class EmbeddingsRequest(GoRequest):
    """POST /api/embeddings, the older form."""

    go_name: ClassVar[str] = "api.EmbeddingRequest"

    model: str = ""
    prompt: str = ""
    keep_alive: KeepAlive = None
    options: dict[str, Any] = Field(default_factory=dict)


class ShowRequest(GoRequest):
    """POST /api/show. `name` is the older key for `model`."""

    go_name: ClassVar[str] = "api.ShowRequest"

    model: str = ""
    system: str = ""
    template: str = ""
    verbose: bool = False
    options: dict[str, Any] = Field(default_factory=dict)
    name: str = ""
