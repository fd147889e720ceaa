"""What one engine has: its models as it lists them, what is loaded, and which runner each needs."""

from collections.abc import Awaitable, Callable

from serve.ollama.catalogue import CatalogueReader
from serve.ollama.client import EngineClient
from serve.ollama.dated import DatedModels
from serve.ollama.runners import Shown, shown
from serve.wire.names import canonical


class Holdings:
    """Read through `ready`, which gives the client of an engine that is up, or raises.

    `tags` reads a listing without waiting for an engine. Every question raises `EngineError`.
    """

    def __init__(
        self,
        ready: Callable[[], Awaitable[EngineClient]],
        tags: Callable[[], Awaitable[bytes]],
    ) -> None:
        self._ready = ready
        self.catalogue = CatalogueReader(tags)
        self.dated = DatedModels(self._read_templates, self.catalogue.fresh)
        self.shown: dict[str, Shown] = {}
        """By canonical name, of the models that have been shown."""

    async def digest(self, model: str) -> str:
        """The digest that the engine lists now for a name in any spelling; "" if none."""
        found = (await self.catalogue.fresh()).get(canonical(model))
        return "" if found is None else found.digest

    async def loaded(self) -> frozenset[tuple[str, int]]:
        """What is loaded now, as (weights, tokens of context)."""
        rows = (await (await self._ready()).loaded()).models
        return frozenset(
            (self.weights(canonical(row.model or ""), row.digest or ""), row.context_length or 0)
            for row in rows
        )

    def weights(self, model: str, digest: str) -> str:
        """What a runner of this model is known by; its digest, until the model has been shown."""
        told = self.shown.get(model)
        return told.weights if told is not None and told.weights else digest

    async def aclose(self) -> None:
        """Ask nothing more."""
        await self.dated.aclose()
        await self.catalogue.aclose()

    async def _read_templates(self, model: str) -> tuple[str, str]:
        told = await (await self._ready()).show(model)
        self.shown[canonical(model)] = shown(told.modelinfo, told.parameters, told.modelfile)
        return told.template or "", told.modelfile or ""
