"""What the handlers share: models, scheduler, and how a request's options become a launch."""

import contextlib
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

from serve.embedded.config import EngineConfig
from serve.embedded.loaded import Loaded
from serve.embedded.models import LocalModel
from serve.embedded.process import Launch
from serve.embedded.scheduler import Scheduler
from serve.embedded.shelf import Shelf
from serve.errors import BadRequest, CloudDisabled, NotFound
from serve.wire import names
from serve.wire.options import Options

_SMALLEST_CONTEXT = 4
_EMBEDDING_BATCH = 2048
_NO_SHIFT = "deepseek2"


@dataclass(frozen=True, slots=True)
class Engine:
    """One engine."""

    config: EngineConfig
    shelf: Shelf
    scheduler: Scheduler

    def options(self, model: LocalModel, asked: Mapping[str, Any]) -> Options:
        """A request's effective options. Raises `EngineInvalid` for a value of a wrong type.

        What must be positive and isn't counts as not given; but a negative `num_ctx` is, for a
        model that generates, the smallest context, as in Ollama.
        """
        options = Options.merged(model.options, asked)
        context, batch = options.num_ctx, options.num_batch
        if not context or (model.embeds and context < 0):
            context = self.config.context_length
        if model.embeds and (batch <= 0 or "num_batch" not in {*model.options, *asked}):
            batch = min(_EMBEDDING_BATCH, context)
        elif batch <= 0:
            batch = Options().num_batch
        return options.model_copy(update={"num_ctx": context, "num_batch": batch})

    def launch(self, model: LocalModel, options: Options, *, shift: bool | None) -> Launch:
        """What the model's runner must have been started with to serve these options."""
        context = max(options.num_ctx, _SMALLEST_CONTEXT)
        trained = model.facts.number("context_length")
        return Launch(
            path=str(model.path),
            template=model.template,
            embedding=model.embeds,
            slots=1 if model.embeds else self.config.slots,
            context=min(context, trained) if trained else context,
            batch=options.num_batch,
            shift=model.facts.architecture != _NO_SHIFT if shift is None else shift,
            threads=options.num_thread if options.num_thread > 0 else self.config.threads,
            gpu_layers=max(options.num_gpu, -1),
            main_gpu=None if (options.main_gpu or 0) < 0 else options.main_gpu,
            mmap=options.use_mmap,
            kv_type=self.config.kv_cache_type,
            flash_attention=self.config.flash_attention,
        )


class Request:
    """One request on its way: its body, when it came, and what ends with it.

    `upload` is the body of one that may be larger than memory, as it comes; then `body` is empty.
    """

    def __init__(
        self,
        body: bytes,
        headers: Mapping[str, str],
        ends: contextlib.AsyncExitStack,
        path: str = "",
        upload: AsyncIterator[bytes] | None = None,
    ) -> None:
        self.body = body
        self.headers = headers
        self.ends = ends
        self.path = path
        self.upload = upload
        self.started_ns = time.monotonic_ns()
        self.loaded_ns = self.started_ns

    async def runner(
        self,
        engine: Engine,
        model: LocalModel,
        options: Options,
        keep_alive_s: float | None,
        *,
        shift: bool | None = None,
    ) -> Loaded:
        """The loaded model, kept until the request has ended. Raises as `Scheduler.runner` does."""
        launch = engine.launch(model, options, shift=shift)
        loaded = await self.ends.enter_async_context(
            engine.scheduler.runner(model, launch, keep_alive_s)
        )
        self.loaded_ns = time.monotonic_ns()
        return loaded

    def durations(self) -> dict[str, int]:
        """How long the request took until now, and how much of it before its model was ready."""
        return {
            "total_duration": time.monotonic_ns() - self.started_ns,
            "load_duration": self.loaded_ns - self.started_ns,
        }


async def named(
    engine: Engine,
    name: str,
    *,
    unnamed: BadRequest | NotFound,
    in_cloud: str = "remote model is unavailable",
) -> LocalModel | None:
    """The model that a request names; None if there is none.

    Raises `unnamed` for an empty name, `BadRequest` for one that Ollama refuses, and
    `CloudDisabled`, with what is unavailable, for a model of the cloud.
    """
    try:
        canonical = names.canonical(name)
    except BadRequest as error:
        raise (unnamed if str(error) == names.REQUIRED else error) from None
    if names.is_cloud(name):
        raise CloudDisabled(in_cloud)
    return await engine.shelf.find(canonical)
