"""All models of an engine, made ready in the background and kept true to their files.

The first start converts one model and hashes the weights of all, so whoever asks for a model waits
for that model alone. A model whose file has been replaced is made ready anew before it is told of
or used: its digest names what answers, and answers are cached by digest.
"""

import asyncio
import functools
import hashlib
import importlib.metadata
import json
import logging
from dataclasses import dataclass, replace
from pathlib import Path

from serve.embedded import gguf_facts
from serve.embedded.config import EngineConfig
from serve.embedded.library import Library
from serve.embedded.models import LocalModel, capabilities
from serve.embedded.sources import Seen, Source, all_minilm, configured, smollm2
from serve.embedded.store import Store
from serve.embedded.templates import CHATML, PROMPT_ONLY
from serve.errors import ConfigError, RayllamaError
from serve.wire.names import canonical, short

_log = logging.getLogger(__name__)

_CHATML_STOPS = {"stop": ["<|im_start|>", "<|im_end|>"]}
_TRIES = 3


@dataclass(frozen=True, slots=True)
class _Made:
    """What came of a source: a model, or None, and the files as they were for it."""

    seen: Seen
    model: LocalModel | None


class Shelf:
    """All models by canonical name; those of the store (`library`) hide others of their name."""

    def __init__(self, config: EngineConfig, store: Store) -> None:
        """Raises `ConfigError` for a configured model that can't be served."""
        self._store = store
        self._build_version = _llama_cpp()
        self._aliases = {canonical("smollm2"): canonical("smollm2:135m")}
        self._sources = {
            canonical("smollm2:135m"): Source(smollm2, CHATML, options=_CHATML_STOPS),
            canonical("all-minilm"): Source(functools.partial(all_minilm, store)),
        }
        taken = map(short, [*self._sources, *self._aliases])
        self._sources |= configured(config.models, taken)
        self.library = Library(store)
        self._made: dict[str, tuple[Source, asyncio.Task[_Made]]] = {}

    def open(self) -> None:
        """Starts making the models ready. Needs a running event loop."""
        for name in {*self._sources, *self.library.names()}:
            source = self._source(name)
            if source is not None:
                self._make(name, source)

    async def close(self) -> None:
        """Stops what is still being made ready."""
        tasks = [task for _, task in self._made.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def find(self, name: str) -> LocalModel | None:
        """The model of that canonical name, as its files are now; None if there is none."""
        known = name if self.library.source(name) else self._aliases.get(name, name)
        source = self._source(known)
        if source is None:
            self._made.pop(known, None)
            return None
        made, task = self._made.get(known) or (source, self._make(known, source))
        if made is not source or (task.done() and not task.result().seen.holds):
            task = self._make(known, source)
        model = (await asyncio.shield(task)).model
        return replace(model, name=name) if model is not None else None

    async def all(self) -> list[LocalModel]:
        """Every model that could be made ready, newest first, as `/api/tags` lists them."""
        names = dict.fromkeys((*self._sources, *self._aliases, *self.library.names()))
        found = [await self.find(name) for name in names]
        models = [model for model in found if model is not None]
        return sorted(models, key=lambda model: (-model.modified_ns, model.name))

    def is_built_in(self, name: str) -> bool:
        """Does it come with the engine or its configuration? Then it can't be deleted."""
        return name in self._sources or name in self._aliases

    def _source(self, name: str) -> Source | None:
        return self.library.source(name) or self._sources.get(name)

    def _make(self, name: str, source: Source) -> asyncio.Task[_Made]:
        task = asyncio.get_running_loop().create_task(self._ready(name, source))
        self._made[name] = source, task
        return task

    async def _ready(self, name: str, source: Source) -> _Made:
        seen = Seen()
        try:
            path = await source.locate()
            for _ in range(_TRIES):
                seen = Seen.now(source.files(path))
                model = await self._model(name, path, source, seen)
                if seen.holds:
                    return _Made(seen, model)
            raise BlockingIOError("its file changes all the time")
        except (OSError, ValueError, RayllamaError) as error:
            _log.warning("%s is not available: %s", short(name), error)
            return _Made(seen, None)

    async def _model(self, name: str, path: Path, source: Source, seen: Seen) -> LocalModel | None:
        """The model; None where its files changed meanwhile. Raises what reading them raises."""
        try:
            return await asyncio.to_thread(self._build, name, path, source, seen)
        except (OSError, ValueError):
            if seen.holds:
                raise
            return None

    def _build(self, name: str, path: Path, source: Source, seen: Seen) -> LocalModel:
        facts = gguf_facts.read(path)
        embedded = str(facts.keys.get("tokenizer.chat_template", ""))
        template = source.own_template() or embedded or PROMPT_ONLY
        stat = path.stat()
        changed = source.manifest.stat() if source.manifest else stat
        return LocalModel(
            name=name,
            path=path,
            facts=facts,
            template=template,
            options=source.options,
            system=source.system,
            digest=self._digest(path, template, source),
            size=source.size or stat.st_size,
            modified_ns=changed.st_mtime_ns,
            seen=seen,
            capabilities=capabilities(facts, template),
            messages=source.messages,
            licenses=source.licenses,
            parent=source.parent,
            foreign=bool(source.foreign) and not embedded,
        )

    def _digest(self, path: Path, template: str, source: Source) -> str:
        """A sha256 over the weights, what shapes a prompt and its sampling, and the build."""
        parts: dict[str, object] = {
            "weights": self._store.sha256(path),
            "template": template,
            "options": source.options,
            "system": source.system,
            "llama.cpp": self._build_version,
        }
        if source.messages:
            parts["messages"] = [message.model_dump() for message in source.messages]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _llama_cpp() -> str:
    """The build that computes."""
    try:
        return importlib.metadata.version("xllamacpp")
    except importlib.metadata.PackageNotFoundError:
        raise ConfigError("the package xllamacpp is not installed: run `make setup`") from None
