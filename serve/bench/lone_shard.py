"""A cache shard in a process of its own, without Ray: what the cache actor runs, and nothing else.

    python -m serve.bench.lone_shard SETTINGS

SETTINGS: `cache` as JSON. It prints one line of JSON, its port and secret, when it listens, and
stops when its standard input ends.
"""

import asyncio
import json
import secrets
import sys
from time import monotonic, time

from serve.cache.shard import ShardServer
from serve.cache.warmth import Warmth
from serve.settings import CacheSettings


async def _serve(settings: CacheSettings) -> None:
    secret = secrets.token_bytes(32)
    server = ShardServer(secret, settings, clock=monotonic)
    warmth = Warmth(server.holdings, settings, 0, clock=monotonic, wall=time)
    server.deserted, server.purged = warmth.hurry, warmth.purged
    _, port = await server.start()
    warmth.start()
    sys.stdout.write(json.dumps([port, secret.hex()]) + "\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)
    await warmth.stop()
    await server.stop()


if __name__ == "__main__":
    asyncio.run(_serve(CacheSettings.model_validate_json(sys.argv[1])))
