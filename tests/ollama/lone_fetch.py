"""A fetch in a process of its own: `lone_fetch.py FROM TO NAME`, both folders of model stores.

Prints a line for each piece that was asked for. The third never comes: it lives until it is killed.
"""

import asyncio
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

from serve.ollama.depot_routes import DepotRoutes
from serve.ollama.fetching import Fetcher, agreed
from serve.ollama.peers import PeerStores
from serve.ollama.progress import Progress
from serve.ports import Call, Frame
from tests.ollama.stores import Neighbours, depot


class HangingNeighbours(Neighbours):
    async def stream(self, call: Call) -> AsyncGenerator[Frame, None]:
        async for frame in super().stream(call):
            yield frame
        sys.stdout.write(f"{call.path}\n")
        sys.stdout.flush()
        if len(self.pieces()) == 2:
            await asyncio.Event().wait()


async def main() -> None:
    source, target, name = sys.argv[1:]
    peers = HangingNeighbours({"a": DepotRoutes(depot(Path(source)))})
    stores, mine = PeerStores(peers), depot(Path(target))
    stocks, _ = await stores.stocks()
    await Fetcher(mine, stores, "").copy(name, agreed(stocks, name), Progress(name))


if __name__ == "__main__":
    asyncio.run(main())
