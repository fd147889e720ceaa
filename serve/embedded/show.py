"""GET /api/tags, GET /api/ps and POST /api/show: what models there are, and what they are."""

import asyncio
import json
from typing import Any

from serve.embedded import gguf_facts
from serve.embedded.engine import Engine, Request, named
from serve.embedded.models import LocalModel
from serve.embedded.replies import Reply, json_reply
from serve.errors import BadRequest, NotFound
from serve.wire.gojson import timestamp
from serve.wire.names import REQUIRED, short
from serve.wire.native import ShowRequest, decode, quoted

_COPILOT = "GitHubCopilotChat/"
_PARAMETER_WIDTH = 30
_UNTOLD = ("general.name", "tokenizer.chat_template")


async def tags(engine: Engine, _: Request) -> Reply:
    """All models, newest first."""
    return json_reply({"models": [_row(model) for model in await engine.shelf.all()]})


async def ps(engine: Engine, _: Request) -> Reply:
    """The loaded models; the one that stays longest comes first."""
    loaded = sorted(engine.scheduler.loaded, key=lambda one: -one.expires_ns() // 10**9)
    return json_reply(
        {
            "models": [
                {
                    "name": short(one.model.name),
                    "model": short(one.model.name),
                    "size": one.size(),
                    "digest": one.model.digest,
                    "details": _details(one.model),
                    "expires_at": timestamp(one.expires_ns()),
                    "size_vram": 0,
                    "context_length": one.launch.context,
                }
                for one in loaded
            ]
        }
    )


async def show(engine: Engine, request: Request) -> Reply:
    """One model in full. Raises what the client is told, as `RayllamaError`."""
    asked = decode(request.body, ShowRequest)
    name = asked.model or asked.name
    model = await named(
        engine,
        name,
        unnamed=BadRequest(REQUIRED),
        in_cloud="remote model details are unavailable",
    )
    if model is None:
        raise NotFound(f"model '{short(name)}' not found")
    facts = model.facts
    if asked.verbose:
        facts = await asyncio.to_thread(gguf_facts.read, model.path, arrays=True)
    system = asked.system or model.system
    info = _info(facts)
    if request.headers.get("user-agent", "").startswith(_COPILOT):
        info["general.basename"] = name
    parameters = _parameters(model)
    return json_reply(
        ({"license": "\n".join(model.licenses)} if model.licenses else {})
        | {"modelfile": _modelfile(model, system)}
        | ({"parameters": parameters} if parameters else {})
        | {"template": model.template}
        | ({"system": system} if system else {})
        | {
            "details": _details(model),
        }
        | ({"messages": _messages(model)} if model.messages else {})
        | {
            "model_info": info,
            "tensors": [
                {"name": tensor, "type": kind, "shape": shape}
                for tensor, shape, kind in facts.tensors
            ],
            "capabilities": model.capabilities,
            "modified_at": timestamp(model.modified_ns),
        }
    )


def _row(model: LocalModel) -> dict[str, Any]:
    lengths = {
        name: model.facts.number(name)
        for name in ("context_length", "embedding_length")
        if model.facts.number(name)
    }
    return {
        "name": short(model.name),
        "model": short(model.name),
        "modified_at": timestamp(model.modified_ns),
        "size": model.size,
        "digest": model.digest,
        "details": _details(model) | lengths,
        "capabilities": model.capabilities,
    }


def _details(model: LocalModel) -> dict[str, Any]:
    family = model.facts.architecture
    return {
        "parent_model": model.parent,
        "format": "gguf",
        "family": family,
        "families": [family],
        "parameter_size": gguf_facts.human_count(model.facts.parameter_count),
        "quantization_level": model.facts.file_type,
    }


def _info(facts: gguf_facts.Facts) -> dict[str, Any]:
    """The file's keys in order, without what is told elsewhere."""
    keys = {**facts.keys, "general.parameter_count": facts.parameter_count}
    return {key: keys[key] for key in sorted(keys) if key not in _UNTOLD}


def _messages(model: LocalModel) -> list[dict[str, Any]]:
    return [message.model_dump(exclude_unset=True) for message in model.messages]


def _parameters(model: LocalModel) -> str:
    """One line a value, as `ollama show` prints them."""
    return "\n".join(
        f"{name:<{_PARAMETER_WIDTH}} {_go_value(value)}" for name, value in _values(model)
    )


def _values(model: LocalModel) -> list[tuple[str, Any]]:
    return [
        (name, value)
        for name, values in model.options.items()
        for value in (values if isinstance(values, list) else [values])
    ]


def _go_value(value: Any) -> str:
    return quoted(value) if isinstance(value, str) else json.dumps(value)


def _modelfile(model: LocalModel, system: str) -> str:
    """A Modelfile that says what the model is made of; its TEMPLATE is Jinja here."""
    name = short(model.name)
    lines = [
        '# Modelfile generated by "ollama show"',
        "# To build a new Modelfile based on this, replace FROM with:",
        f"# FROM {name}",
        "",
        f"FROM {model.path}",
        f"TEMPLATE {_argument(model.template)}",
    ]
    if system:
        lines.append(f"SYSTEM {_argument(system)}")
    lines += [f"PARAMETER {key} {value}" for key, value in _values(model)]
    lines += [f"LICENSE {_argument(text)}" for text in model.licenses]
    lines += [f"MESSAGE {one.role} {_argument(one.content)}" for one in model.messages]
    return "\n".join(lines) + "\n"


def _argument(text: str) -> str:
    """Quoted where a Modelfile needs it."""
    if '"' in text:
        return f'"""{text}"""'
    return f'"{text}"' if "\n" in text or text != text.strip() else text
