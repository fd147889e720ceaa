"""Which models a replica sees to: before it is ready, those that its settings name; later, those
that the others have.

Before: `inference.models` must come, or the replica isn't ready; `inference.serves` should come,
and are tried again later if they don't, since the others are worth serving. There is no limit to
how long it takes, only to how long nothing comes (`fetch_stall_s`).

After: a replica that starts late would lack what was created since, which no registry has. So it
copies the models that all agree on who have it behind them (`Listing.is_settled`), until it has
once seen them all. One that they don't agree on may just be changing; that is followed by whoever
changes it, everywhere.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress

from serve.errors import EngineError, EngineNotReady, RayllamaError
from serve.ollama.catalogue import parse_tags
from serve.ollama.client import EngineClient
from serve.ollama.depot import Depot, depot_of
from serve.ollama.depot_routes import DepotRoutes
from serve.ollama.fetching import Fetcher, agreed
from serve.ollama.peers import Peers, PeerStores, Stock
from serve.ollama.progress import Progress, Row, turn
from serve.settings import Settings
from serve.wire.names import canonical

_FIRST_S, _LAST_S = 1.0, 60.0
_log = logging.getLogger(__name__)


class Stocking:
    """Owns the task that copies in the background. `peers`: None where nobody is to be asked.

    `routes` answers what others ask of this store.
    """

    def __init__(self, settings: Settings, peers: Peers | None = None) -> None:
        self._settings = settings.inference
        self._depot = depot = depot_of(settings)  # None where the engine isn't ours
        self._stores = None if peers is None else PeerStores(peers)
        self._fetcher = Fetcher(depot, self._stores, settings.inference.mirror)
        self.routes = DepotRoutes(depot, self.rows, lambda: self.is_settled)
        self._running: dict[str, Progress] = {}
        self._late = list(settings.inference.serves)
        self._client: EngineClient | None = None
        self._task: asyncio.Task[None] | None = None
        self.is_settled = False

    def rows(self) -> Sequence[Row]:
        """The models that this replica fetches now."""
        return [progress.row for progress in list(self._running.values())]

    async def prepare(self, client: EngineClient) -> None:
        """For an engine that answers: fetch what the settings name and it lacks.

        Raises `EngineNotReady` if one of `models` doesn't come. An attached engine is left alone.
        """
        self._client = client
        if self._depot is None:
            return
        await asyncio.to_thread(self._depot.sweep)
        for model in await self._lacking(client, self._settings.models):
            try:
                await self._fetch(client, model)
            except (RayllamaError, OSError) as error:
                raise EngineNotReady(f"model {model!r} could not be fetched: {error}") from error
        if self._task is None:  # an engine that is restarted isn't kept waiting for these
            await self._serve(client)

    def start(self) -> None:
        """The replica is ready: see to the rest in the background."""
        if self._depot is None:
            self.is_settled = True
            return
        self._task = asyncio.get_running_loop().create_task(self._run(self._depot))

    async def stop(self) -> None:
        """End what runs; what is there of it is gone on from."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self, depot: Depot) -> None:
        pause_s = _FIRST_S
        while not (await self._caught_up(depot) and not self._late):
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LAST_S)
            if self._client is not None:
                await self._serve(self._client)

    async def _serve(self, client: EngineClient) -> None:
        """Those of `serves` that are missing; what doesn't come is for later."""
        late = []
        with suppress(EngineError):
            self._late = await self._lacking(client, self._late)
        for model in self._late:
            try:
                await self._fetch(client, model)
            except (RayllamaError, OSError) as error:
                _log.warning("model %r could not be fetched yet: %s", model, error)
                late.append(model)
        self._late = late

    async def _lacking(self, client: EngineClient, models: Sequence[str]) -> list[str]:
        if not models:
            return []
        there = parse_tags(await client.tags())
        return [model for model in dict.fromkeys(models) if canonical(model) not in there]

    async def _fetch(
        self, client: EngineClient, model: str, holders: Mapping[str, str] | None = None
    ) -> None:
        """One model, unless another replica of this store has just done it: from those `holders`,
        or from wherever it is. Raises `EngineError`, `ClientError`, `OSError`."""
        if self._depot is None:
            return
        progress = self._running[model] = Progress(model)
        try:
            async with (
                progress.unless_stalled(self._settings.fetch_stall_s),
                turn(self._depot, progress, model),
            ):
                if holders is None:
                    if await self._lacking(client, [model]):
                        await self._fetcher.fetch(client, model, progress)
                elif await self._still(model, holders):
                    await self._fetcher.copy(model, holders, progress)
        finally:
            del self._running[model]

    async def _still(self, model: str, holders: Mapping[str, str]) -> bool:
        """Is it there as it was, and not here? Much may have happened while we waited our turn."""
        if self._depot is None or self._stores is None or model in await _names(self._depot):
            return False
        stocks, _ = await self._stores.stocks()
        return bool(set(shared(stocks).get(model, {}).items()) & set(holders.items()))

    async def _caught_up(self, depot: Depot) -> bool:
        """One look at what the others have, and a copy of what is missing here. Is that all?"""
        if self.is_settled or self._stores is None or self._client is None:
            self.is_settled = True
            return True
        try:
            stocks, silent = await self._stores.stocks()
            here = await _names(depot)
            for model, holders in sorted(shared(stocks).items()):
                if model not in here:
                    await self._fetch(self._client, model, holders)
                elif here[model] not in holders.values():
                    _log.warning("%s is another model here than on all other replicas", model)
        except (RayllamaError, OSError) as error:
            _log.warning("the other replicas' models could not be copied yet: %s", error)
            return False
        self.is_settled = not silent
        return self.is_settled


async def _names(depot: Depot) -> dict[str, str]:
    """Canonical name → digest of what is in the store, whatever the engine has beside it."""
    listing = await asyncio.to_thread(depot.listing)
    return {canonical(name): digest for name, digest in listing.items()}


def shared(stocks: Mapping[str, Stock]) -> dict[str, dict[str, str]]:
    """The models that all agree on: canonical name → who has it, and its digest.

    One who isn't settled may lack it, and may not have another.
    """
    found: dict[str, dict[str, str]] = {}
    for name in {name for stock in stocks.values() for name in stock.models}:
        holders = agreed(stocks, name)
        others = [stock for peer, stock in stocks.items() if peer not in holders]
        if all(name not in stock.models and not stock.is_settled for stock in others):
            found[name] = holders
    return found
