"""Chat templates: Jinja, which llama.cpp renders, and Ollama's own in Go's language.

A few of Ollama's are known by heart; of any other the client is told what to do instead.
"""

from serve.errors import BadRequest

CHATML = (
    "{%- for message in messages %}"
    "{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{%- endfor %}"
    "{{ '<|im_start|>assistant\\n' }}"
)
"""What Ollama finds for SmolLM2, in Jinja: unlike the template in the file, without a system
message of its own."""

PROMPT_ONLY = "{%- for message in messages %}{{ message.content }}{%- endfor %}"
"""Ollama's `{{ .Prompt }}`: the texts, and nothing around them."""

GO_CHATML = (
    "{{- range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}"
    "<|im_start|>assistant\n"
)
GO_TEMPLATE = (
    "Go templates are not interpreted by Rayllama's embedded engine: render the prompt yourself "
    'and send it with "raw": true, or give the model a Jinja template in embedded.models, or use '
    "Ollama as the engine"
)

_KNOWN = {GO_CHATML: CHATML, "{{ .Prompt }}": PROMPT_ONLY}


def jinja_of(template: str) -> str | None:
    """A template of Ollama's in Jinja; None for one that isn't known."""
    return _KNOWN.get(template)


def accepted(template: str) -> str:
    """The Jinja template that a client means. Raises `BadRequest` for one in Go's language: what
    has an action, and no statement of Jinja's."""
    known = jinja_of(template)
    if known is not None:
        return known
    before, opened, after = template.rpartition("{{")
    if opened and "{%" not in template:
        if "}}" not in after:
            line = before.count("\n") + 1
            raise BadRequest(f"template error: template: :{line}: unclosed action")
        raise BadRequest(GO_TEMPLATE)
    return template
