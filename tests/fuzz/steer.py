"""Where the fuzz goes: requests that get past the door, and end soon once they do.

The document that cases are made from is Rayllama's own, but for what names a model, counts tokens
or sets options: at random these would hardly ever be what an engine acts on. `calm` then bounds
what was made, wrong types and all: nothing is generated for minutes, no model that others need is
replaced, and no registry but one that isn't there is asked for anything.
"""

import copy
from typing import Any

from serve.web.openapi import document
from tests.web.described import VERBS

Schema = dict[str, Any]

CHATS, EMBEDS = "smollm2:135m", "all-minilm"
SHORT = "fuzz-short"
"""The same model, with a limit of its own to what it says (`conftest`)."""
MADE = "fuzz-made"
NOWHERE = "http://127.0.0.1:9/library/x"
PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJg"
    "gg=="
)

_SAID = [{"role": "user", "content": "Hi"}]
_SHORT = {"num_predict": 2, "temperature": 0}
GOOD: dict[str, tuple[str, dict[str, Any]]] = {
    "/api/generate": ("POST", {"model": SHORT, "prompt": "Hi", "options": _SHORT}),
    "/api/chat": ("POST", {"model": SHORT, "messages": _SAID, "options": _SHORT}),
    "/api/embed": ("POST", {"model": EMBEDS, "input": ["a", "b"]}),
    "/api/embeddings": ("POST", {"model": EMBEDS, "prompt": "a"}),
    "/api/show": ("POST", {"model": CHATS}),
    "/api/pull": ("POST", {"model": NOWHERE, "insecure": True}),
    "/api/push": ("POST", {"model": NOWHERE, "insecure": True}),
    "/api/create": ("POST", {"model": MADE, "from": CHATS}),
    "/api/copy": ("POST", {"source": CHATS, "destination": MADE}),
    "/api/delete": ("DELETE", {"model": MADE}),
    "/api/experimental/web_search": ("POST", {"query": "a"}),
    "/v1/chat/completions": ("POST", {"model": SHORT, "messages": _SAID, "max_tokens": 2}),
    "/v1/completions": ("POST", {"model": SHORT, "prompt": "Hi", "max_tokens": 2}),
    "/v1/embeddings": ("POST", {"model": EMBEDS, "input": "a"}),
    "/v1/responses": ("POST", {"model": SHORT, "input": "Hi", "max_output_tokens": 2}),
    "/v1/messages": ("POST", {"model": SHORT, "messages": _SAID, "max_tokens": 2}),
}

_MODELS = [CHATS, CHATS, SHORT, EMBEDS, MADE, "nope", "", "hf.co/a/b:c", "a b!", "SmolLM2:135M"]
_TEXT = {
    "anyOf": [
        {"enum": ["Hello", "", "Why?", "<|im_end|>", "\x00", "word " * 400, "\ud7ff\U0001f600 é"]},
        {"type": "string", "maxLength": 30},
    ]
}
_FORMATS: list[Any] = [
    *("json", "", None, "yaml", 3, [], {}, {"type": "nope"}),
    {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
    {"type": "string", "maxLength": 3},
    {"type": "string", "pattern": "^(a|b"},
    {"enum": ["a", 1, None]},
]
_OPTIONS: Schema = {
    "type": "object",
    "properties": {
        "num_predict": {"type": "integer", "minimum": 1, "maximum": 4},
        "temperature": {"type": "number", "minimum": 0, "maximum": 2},
        "seed": {"type": "integer"},
        "stop": {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]},
        "top_k": {"type": "integer"},
        "top_p": {"type": "number"},
        "min_p": {"type": "number"},
        "typical_p": {"type": "number"},
        "repeat_penalty": {"type": "number"},
        "repeat_last_n": {"type": "integer"},
        "presence_penalty": {"type": "number"},
        "frequency_penalty": {"type": "number"},
        "num_keep": {"type": "integer"},
        "num_ctx": {"enum": [256, "256", 256.5, True, None]},
        "nonsense": {},
    },
    "additionalProperties": False,
}
_TOKENS = {"anyOf": [{"enum": [1, 2, 3]}, {"type": "integer", "minimum": 1, "maximum": 4}]}
_PARTS = {
    "type": "array",
    "maxItems": 2,
    "items": {
        "anyOf": [
            {"enum": [{"type": kind, "text": "Hi"} for kind in ("text", "input_text", "nope")]},
            {
                "enum": [
                    {"type": "image_url", "image_url": {"url": url}}
                    for url in (f"data:image/png;base64,{PIXEL}", "http://127.0.0.1:9/x.png", "")
                ]
            },
            {"enum": [{"type": "input_audio", "input_audio": {"data": "UklGRg=="}}, {}, None, 1]},
        ]
    },
}
_CONTENT = {"anyOf": [_TEXT, _TEXT, _PARTS]}
_INPUTS = {"anyOf": [_TEXT, {"type": "array", "maxItems": 3, "items": _TEXT}]}

_PROPERTIES: dict[str, Schema] = {
    "model": {"enum": _MODELS},
    "name": {"enum": _MODELS},
    "options": _OPTIONS,
    "format": {"enum": _FORMATS},
    "schema": {"enum": _FORMATS},
    "keep_alive": {"enum": ["5m", 300, 60.5, -1, "1h30m", "x", "", None]},
    "max_tokens": _TOKENS,
    "max_output_tokens": _TOKENS,
    "role": {"enum": ["user", "assistant", "system", "tool", "USER", "nobody", ""]},
    "prompt": _TEXT,
    "system": _TEXT,
    "suffix": {"enum": ["", "", "", "end"]},
    "template": {"enum": ["", "", "{{ .Prompt }}", "{{ .Prompt", "{% if %}"]},
    "images": {"type": "array", "maxItems": 1, "items": {"enum": [PIXEL, "", "!", [1, 2]]}},
    "from": {"enum": [CHATS, EMBEDS, "a b!", ""]},
    "destination": {"enum": [MADE, "a b!", "", "x/y/z/w/v"]},
    "source": {"enum": _MODELS},
    "raw": {"type": "boolean"},
    "top_logprobs": {"enum": [0, 0, 1, 5, 20, 21, -1]},
    "context": {"type": "array", "maxItems": 3, "items": {"enum": [0, 1, 17, 49151, 49152, -1]}},
    "dimensions": {"enum": [0, 0, 1, 64, 384, 1000, -1]},
    "encoding_format": {"enum": ["float", "base64", "BASE64", "", "hex"]},
    "effort": {"enum": ["", "low", "minimal", "none", "max", "nope"]},
    "reasoning_effort": {"enum": [None, "low", "none", "nope"]},
    "cache_control": {},
}
_INPUT = {"api.EmbedRequest": _INPUTS, "openai.EmbedRequest": _INPUTS}
_LONG = frozenset({"num_predict", "max_tokens", "max_output_tokens"})
_FAR = 1 << 63


def steered() -> dict[str, Any]:
    """The document that cases are made from."""
    made = copy.deepcopy(document())
    for name, schema in made["components"]["schemas"].items():
        properties = schema.get("properties", {})
        if not name.startswith(("api.", "openai.", "anthropic.")):
            continue
        for key in properties.keys() & _PROPERTIES.keys():
            properties[key] = _PROPERTIES[key]
        if "input" in properties and name in _INPUT:
            properties["input"] = _INPUT[name]
        if "content" in properties:
            properties["content"] = _CONTENT
        if "messages" in properties:
            properties["messages"] |= {"maxItems": 3, "minItems": 1}
    _answers_nothing(made)
    return made


def _answers_nothing(made: dict[str, Any]) -> None:
    """Cases are made of requests; answers would only be read."""
    for item in made["paths"].values():
        for verb in item.keys() & set(VERBS):
            item[verb]["responses"] = {"200": {"description": ""}}


def grounded(path: str, body: Any) -> Any:
    """The same on a request that is good: what stands beside its main fields comes to matter."""
    if path not in GOOD or not isinstance(body, dict):
        return body
    return {**body, **GOOD[path][1]} | {key: body[key] for key in _SPICE & body.keys()}


_SPICE = frozenset({"options", "max_tokens", "max_output_tokens"})


def whole(value: Any) -> Any:
    """With integers for what JSON schema takes for such, and Go doesn't: 3.0."""
    if isinstance(value, float) and value.is_integer() and abs(value) < _FAR:
        return int(value)
    if isinstance(value, list):
        return [whole(item) for item in value]
    return {key: whole(item) for key, item in value.items()} if isinstance(value, dict) else value


def calm(path: str, body: Any) -> Any:
    """The body, so that it can't take long or do harm."""
    if not isinstance(body, dict):
        return body
    calmed = _calm(path, body)
    if path in ("/api/generate", "/api/chat"):
        options = calmed.setdefault("options", {})
        if isinstance(options, dict):
            options.setdefault("num_predict", 3)
    elif path in _LIMITS:
        calmed.setdefault(_LIMITS[path], 3)
    return calmed


_LIMITS = {
    "/v1/chat/completions": "max_tokens",
    "/v1/completions": "max_tokens",
    "/v1/responses": "max_output_tokens",
}


def _calm(path: str, value: Any) -> Any:
    if isinstance(value, list):
        return [_calm(path, item) for item in value]
    if not isinstance(value, dict):
        return value
    return {key: _calmed(path, str(key).lower(), inner) for key, inner in value.items()}


def _calmed(path: str, key: str, value: Any) -> Any:
    if value == SHORT and path == "/api/delete":
        return MADE
    if isinstance(value, str):
        return value if value in _REFUSED else _NAMES.get((path, key), value)
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _FAR:
        if key in _LONG and not 1 <= value <= 8:
            return 2
        return 256 if key == "num_ctx" else value
    return _calm(path, value)


_REFUSED = frozenset({"", "a b!", "x/y/z/w/v"})
_NAMES = {
    ("/api/pull", "model"): NOWHERE,
    ("/api/pull", "name"): NOWHERE,
    ("/api/push", "model"): NOWHERE,
    ("/api/push", "name"): NOWHERE,
    ("/api/create", "model"): MADE,
    ("/api/create", "name"): MADE,
    ("/api/create", "from"): CHATS,
    ("/api/copy", "destination"): MADE,
}
"""What stands for a name that was made up, where a change of it or a fetch could do harm."""
