"""A replica in a process of its own, without Ray: `lone_replica.py SETTINGS_JSON`.

Prints its replica id when it is ready, then lives until it is killed.
"""

import asyncio
import sys

from deployments.inference import Inference
from serve.settings import Settings


async def main() -> None:
    settings = Settings.model_validate_json(sys.argv[1])
    replica = await Inference.launch(settings, watch_parent=True)
    sys.stdout.write((await replica.report()).replica_id + "\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
