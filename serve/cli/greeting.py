"""What `rayllama up` prints when Rayllama is ready: where it is, and lines to copy."""

import json
import shlex
from typing import Any

from serve.cli.deployfile import DeployFile
from serve.cli.machine import get

_PROMPT = "Why is the sky blue? Answer in one sentence."
_KEY = "$RAYLLAMA_KEY"
LAST = "Ctrl-C stops it."
"""The last line: whoever reads the output knows that Rayllama is ready."""


def greeting(file: DeployFile, *, config: str, log: str) -> str:
    """The whole text."""
    url, settings = file.url, file.settings
    names = models(file)
    model = names[0] if names else "MODEL"
    lines = [
        "",
        f"Rayllama is ready at {url}",
        f"  model   {', '.join(names) or 'none yet: load one with the ollama command'}",
        f"  config  {config}",
        f"  log     {log}",
        "",
        *_twice(file, model),
        "Streamed, token by token:",
        "  " + _curl(file, "-N", "/api/chat", _chat(model)),
        "",
        "From Python, with the ollama package (.venv has it):",
        "  .venv/bin/python -c " + shlex.quote(_python(file, model)),
        "",
    ]
    if settings.auth.keys:
        lines += [f"Put a key into {_KEY} first: this config lets nobody in without.", ""]
    return "\n".join([*lines, LAST])


def models(file: DeployFile) -> list[str]:
    """The models that it serves, the first one a model that chats. May be empty."""
    configured = [name for shape in file.settings.shapes.values() for name in shape.models]
    status, body = get(file.url, "/api/tags")
    listed = [row["name"] for row in json.loads(body)["models"]] if status == 200 else []
    rest = [name for name in listed if name not in configured]
    return configured + sorted(rest, key=lambda name: ("embed" in name or "minilm" in name, name))


def _twice(file: DeployFile, model: str) -> list[str]:
    policy = file.settings.cache.models.get(model, file.settings.cache.policy)
    if policy == "off":
        return []
    body: dict[str, Any] = {"model": model, "prompt": _PROMPT, "stream": False}
    if policy == "deterministic":
        body["options"] = {"temperature": 0}
    line = "  " + _curl(file, "-i", "/api/generate", body)
    return [
        "Ask twice: the second answer comes from the cache (X-Rayllama-Cache: miss, then hit):",
        line,
        line,
        "",
    ]


def _chat(model: str) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": _PROMPT}]}


def _curl(file: DeployFile, flags: str, path: str, body: dict[str, Any]) -> str:
    key = f' -H "Authorization: Bearer {_KEY}"' if file.settings.auth.keys else ""
    return f"curl {flags} {file.url}{path}{key} -d {shlex.quote(json.dumps(body))}"


def _python(file: DeployFile, model: str) -> str:
    key = ', headers={"Authorization": "Bearer " + os.environ["RAYLLAMA_KEY"]}'
    imports = "import os, ollama" if file.settings.auth.keys else "import ollama"
    client = f'ollama.Client("{file.url}"{key if file.settings.auth.keys else ""})'
    message = json.dumps([{"role": "user", "content": _PROMPT}])
    return f'{imports}; print({client}.chat("{model}", {message}).message.content)'
