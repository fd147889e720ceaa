"""What models can do beyond plain text, on real models with templates of their own."""

import json
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from serve.embedded.templates import CHATML
from tests.embedded.engines import EngineProcess, running
from tests.embedded.weights import smollm2

pytestmark = pytest.mark.engine

_TOOLS = """\
{%- if tools %}
{{- '<|im_start|>system\\n# Tools\\n' }}
{%- for tool in tools %}{{- tool | tojson + '\\n' }}{%- endfor %}
{{- '<|im_end|>\\n' }}
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
{{- '<|im_start|>assistant\\n' }}"""
_THINKING = (
    CHATML + "{% if enable_thinking %}{{ '<think>' }}{% endif %}{# thoughts end with </think> #}"
)
_WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}


@pytest.fixture(scope="module")
def capable(tmp_path_factory: pytest.TempPathFactory) -> Generator[EngineProcess, None, None]:
    folder = tmp_path_factory.mktemp("capable")
    models: list[dict[str, Any]] = []
    for name, template in (("tools", _TOOLS), ("thinking", _THINKING), ("named", CHATML)):
        file = folder / name
        file.write_text(template)
        models.append({"name": name, "path": str(smollm2()), "template": str(file)})
    models[2] |= {"system": "You are Mario.", "parameters": {"num_ctx": 512, "num_predict": 3}}
    with running(folder, config={"models": models}) as engine:
        yield engine


def _asked_for_weather(stream: bool) -> dict[str, Any]:  # noqa: FBT001 - the request's own field
    """A chat whose examples show even a small model how a tool is called."""
    messages: list[dict[str, Any]] = []
    for city in ("Rome", "London", "Oslo"):
        messages.append({"role": "user", "content": f"Weather in {city}?"})
        call = {"function": {"name": "get_weather", "arguments": {"city": city}}}
        messages.append({"role": "assistant", "content": "", "tool_calls": [call]})
    messages.append({"role": "user", "content": "Weather in Paris?"})
    options = {"temperature": 0, "num_predict": 60}
    return {
        "model": "tools",
        "messages": messages,
        "tools": [_WEATHER],
        "stream": stream,
        "options": options,
    }


@pytest.mark.parametrize("stream", [True, False])
def test_a_tool_is_called_in_the_last_line(capable: EngineProcess, *, stream: bool) -> None:
    answer = capable.post("/api/chat", _asked_for_weather(stream))
    lines = [json.loads(line) for line in answer.text.splitlines()]
    (call,) = lines[-1]["message"]["tool_calls"]
    assert call["id"]
    assert call["function"] == {"index": 0, "name": "get_weather", "arguments": {"city": "Paris"}}
    assert lines[-1]["done_reason"] == "stop"
    assert not any("tool_calls" in line["message"] for line in lines[:-1])


@pytest.mark.parametrize(
    "tool", [{}, {"type": "", "function": None}, {"function": {"description": "a"}}]
)
def test_a_tool_needs_neither_type_nor_name(capable: EngineProcess, tool: dict[str, Any]) -> None:
    body = _asked_for_weather(stream=False) | {"tools": [tool], "options": {"num_predict": 1}}
    assert capable.post("/api/chat", body).status_code == 200


def test_a_schema_that_can_not_be_followed_is_refused(capable: EngineProcess) -> None:
    body = {"model": "smollm2", "format": {"type": "date"}, "options": {"num_predict": 1}}
    for route, asked in (("generate", {"prompt": "a"}), ("chat", {"messages": [{"role": "user"}]})):
        refused = capable.post(f"/api/{route}", body | asked)
        assert refused.status_code == 400
        error = json.loads(refused.json()["error"])["error"]
        assert error["message"].endswith('Unrecognized schema: {"type":"date"}')


def test_tools_are_for_models_that_know_them(capable: EngineProcess) -> None:
    answer = capable.post("/api/chat", _asked_for_weather(stream=False) | {"model": "smollm2"})
    assert answer.status_code == 400
    text = "registry.ollama.ai/library/smollm2:latest does not support tools"
    assert answer.json() == {"error": text}


@pytest.mark.parametrize(
    ("route", "body"),
    [
        ("/api/generate", {"prompt": "Hi"}),
        ("/api/chat", {"messages": [{"role": "user", "content": "Hi"}]}),
    ],
)
def test_thoughts_come_apart_unless_switched_off(
    capable: EngineProcess, route: str, body: dict[str, Any]
) -> None:
    options = {"temperature": 0, "num_predict": 8}
    body = body | {"model": "thinking", "stream": False, "options": options}
    thinking = capable.post(route, body).json()
    told = thinking.get("message", thinking)
    assert told["thinking"]
    assert not told.get("content", told.get("response"))
    plain = capable.post(route, body | {"think": False}).json()
    assert "thinking" not in plain.get("message", plain)
    assert plain["prompt_eval_count"] < thinking["prompt_eval_count"]


def test_a_models_own_system_message_and_parameters_count(capable: EngineProcess) -> None:
    render = {"model": "named", "_debug_render_only": True}
    for route, body in (
        ("/api/generate", {"prompt": "Hi"}),
        ("/api/chat", {"messages": [{"role": "user", "content": "Hi"}]}),
    ):
        prompt = capable.post(route, render | body).json()["_debug_info"]["rendered_template"]
        assert prompt.startswith("<|im_start|>system\nYou are Mario.<|im_end|>\n")
    asked = {"model": "named", "prompt": "Hi", "stream": False, "options": {"temperature": 0}}
    assert capable.post("/api/generate", asked).json()["eval_count"] == 3
    assert capable.runner("named")["context"] == 512
    shown = capable.post("/api/show", {"model": "named"}).json()
    assert shown["system"] == "You are Mario."
    assert "num_ctx                        512" in shown["parameters"]


def test_digests_differ_with_whatever_shapes_the_answers(capable: EngineProcess) -> None:
    rows = {row["name"]: row for row in capable.get("/api/tags").json()["models"]}
    assert rows["smollm2:135m"]["digest"] == rows["smollm2:latest"]["digest"]
    assert len({row["digest"] for row in rows.values()}) == len(rows) - 1
    assert {len(row["digest"]) for row in rows.values()} == {64}


def test_a_go_template_is_refused_with_what_to_do(capable: EngineProcess) -> None:
    body = {"model": "smollm2", "prompt": "Hi", "template": "{{ .Prompt }}"}
    answer = capable.post("/api/generate", body)
    assert answer.status_code == 400
    assert "Go templates are not interpreted" in answer.json()["error"]


def test_show_tells_arrays_only_when_asked_to(capable: EngineProcess) -> None:
    brief = capable.post("/api/show", {"model": "smollm2"}).json()["model_info"]
    full = capable.post("/api/show", {"model": "smollm2", "verbose": True}).json()["model_info"]
    assert brief["tokenizer.ggml.tokens"] is None
    assert len(full["tokenizer.ggml.tokens"]) == 49152
    assert brief.keys() == full.keys()


def test_the_older_embeddings_are_not_cut_to_the_shortest_decimals(
    capable: EngineProcess,
) -> None:
    old = capable.post("/api/embeddings", {"model": "all-minilm", "prompt": "hello"}).json()
    new = capable.post("/api/embed", {"model": "all-minilm", "input": "hello"}).json()
    assert old["embedding"] == pytest.approx(new["embeddings"][0], abs=1e-6)
    assert capable.post("/api/embeddings", {"model": "all-minilm"}).json() == {"embedding": []}


def test_a_model_that_cannot_be_loaded_says_so(tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(smollm2().read_bytes()[:5_000_000])
    with running(tmp_path, config={"models": [{"name": "broken", "path": str(broken)}]}) as engine:
        answer = engine.post("/api/generate", {"model": "broken"})
        assert answer.status_code == 500
        assert answer.json()["error"].startswith("llama-server process has terminated: ")
        assert engine.counters()["failed_loads"] == 1
        assert engine.post("/api/generate", {"model": "smollm2"}).status_code == 200
