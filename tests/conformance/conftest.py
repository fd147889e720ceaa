"""One engine for all recordings, set up as the recorded server was."""

from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from serve.embedded.templates import CHATML
from tests.embedded.engines import EngineProcess, running
from tests.embedded.weights import smollm2

_STOPS = ["<|im_start|>", "<|im_end|>"]
TEMPLATES = {
    "mario": CHATML,
    "smollm2-tools": """\
{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\\n' + (message.content or '') }}
{%- for call in message.tool_calls or [] %}
{{- '<tool_call>{"name": "' + call.function.name + '", "arguments": ' }}
{{- call.function.arguments | tojson }}{{ '}</tool_call>' }}
{%- endfor %}
{{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if tools %}Tools: {% for tool in tools %}{{ tool | tojson }}{% endfor %}{% endif %}
{{- '<|im_start|>assistant\\n' }}""",
    "smollm2-think": """\
{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\\n' }}
{%- if message.reasoning_content %}
{{- '<think>' + message.reasoning_content + '</think>' }}
{%- endif %}
{{- message.content + '<|im_end|>\\n' }}
{%- endfor %}
{{- '<|im_start|>assistant\\n' }}
{%- if enable_thinking %}{{- '<think>' }}{% endif %}""",
    "smollm2-insert": """\
{%- if suffix %}
{{- '<fim_prefix>' + messages[-1].content + '<fim_suffix>' + suffix + '<fim_middle>' }}
{%- else %}{{- messages[-1].content }}{% endif %}""",
}
"""What the recordings create with Go templates, in Jinja."""


def models(folder: Path) -> list[dict[str, Any]]:
    """The models that the recordings create, as configuration."""
    made: list[dict[str, Any]] = []
    for name, template in TEMPLATES.items():
        file = folder / f"{name}.jinja"
        file.write_text(template)
        model = {"name": name, "path": str(smollm2()), "template": str(file)}
        made.append(model | {"parameters": {"stop": _STOPS}})
    made[0] |= {
        "parameters": {"temperature": 0, "stop": [*_STOPS, "END"]},
        "system": "You are Mario.",
    }
    return made


@pytest.fixture(scope="session")
def recorded_engine(
    tmp_path_factory: pytest.TempPathFactory,
) -> Generator[EngineProcess, None, None]:
    folder = tmp_path_factory.mktemp("recorded")
    with running(
        folder,
        config={"models": models(folder)},
        OLLAMA_NUM_PARALLEL="2",
        OLLAMA_CONTEXT_LENGTH="2048",
    ) as engine:
        yield engine
