"""What all clients are asked, in words of no client's own, and what they answer."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

MODEL, TOOLS, THINKING, VECTORS = "smollm2:135m", "tools", "thinking", "all-minilm"

TEMPLATES = {
    TOOLS: """\
{%- if tools %}
{{- '<|im_start|>system\\n# Tools\\n' }}
{%- for tool in tools %}{{- tool | tojson + '\\n' }}{%- endfor %}
{{- '<|im_end|>\\n' }}
{%- for city in ('Rome', 'London', 'Oslo') %}
{{- '<|im_start|>user\\nWeather in ' + city + '?<|im_end|>\\n<|im_start|>assistant\\n' }}
{{- '<tool_call>\\n{"name": "get_weather", "arguments": {"city": "' + city + '"}}' }}
{{- '\\n</tool_call><|im_end|>\\n' }}
{%- endfor %}
{%- endif %}
{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\\n' }}
{%- if message.content %}{{- message.content }}{% endif %}
{%- for call in message.tool_calls or [] %}
{{- '<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' }}
{{- call.function.arguments | tojson }}{{ '}\\n</tool_call>' }}
{%- endfor %}
{{- '<|im_end|>\\n' }}
{%- endfor %}
{{- '<|im_start|>assistant\\n' }}""",
    THINKING: """\
{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor %}
{{- '<|im_start|>assistant\\n' }}
{%- if enable_thinking %}{{ '<think>' }}{% endif %}{# thoughts end with </think> #}""",
}
"""A model of 135 million parameters calls a tool where its template shows it how."""

PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string", "description": "Which city"}},
    "required": ["city"],
}
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city",
        "parameters": PARAMETERS,
    },
}
CITY = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": ["Rome", "Oslo"]}},
    "required": ["city"],
}
IGNORED = "ignored, as by Ollama"
CALL_ID = "call_1"


@dataclass(frozen=True)
class Ask:
    """One question, greedy. `result`: what the tool said that the model called, sent back."""

    prompt: str
    model: str = MODEL
    tokens: int = 5
    stream: bool = False
    tools: bool = False
    result: str = ""
    think: bool = False
    schema: dict[str, Any] | None = None

    @property
    def options(self) -> dict[str, Any]:
        return {"temperature": 0, "num_predict": self.tokens}


@dataclass
class Answer:
    """What a client made of the answer; `cache_status` of its header.

    `parts`: how many it came in, without those that hold none of it where the dialect has such.
    """

    text: str = ""
    thinking: str = ""
    calls: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    parts: int = 0
    tokens: int | None = None
    cache_status: str = ""


class Absent(Exception):  # noqa: N818 - named for what it says
    """The client has no such call."""


class Client:
    """One library, without anything of Rayllama's but the URL. What it can't is `Absent`."""

    name = ""
    raises: tuple[str, str] = ("ResponseError", "ResponseError")
    """Its classes for 404 and 400."""
    ignores_schemas = False
    """Has it a way to ask for one that Ollama ignores?"""

    def __init__(self, url: str) -> None:
        self.url = url
        self.seen: list[str] = []

    def watch(self, response: Any) -> None:
        """A hook for the client's HTTP library."""
        self.seen.append(response.headers.get("cache-status", ""))

    def chat(self, ask: Ask) -> Answer:
        raise Absent

    def complete(self, ask: Ask) -> Answer:
        raise Absent

    def respond(self, ask: Ask) -> Answer:
        raise Absent

    async def chat_async(self, ask: Ask) -> Answer:
        raise Absent

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        raise Absent

    def models(self) -> list[str]:
        raise Absent

    def leave(self, ask: Ask) -> None:
        """Begin a stream and go away after its first part."""
        raise Absent
