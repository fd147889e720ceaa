"""Replicas that say their names, called by name and without, many at once: `router_driver.py`.

Prints how many calls with a name were answered by another, and how many were answered at all.
A fake of the inference deployment: what is tested is Serve's handle with our router.
"""

import asyncio
import json
import sys

import ray
from ray import serve as ray_serve
from ray.serve.config import RequestRouterConfig

from serve.fleet import roster

REPLICAS, CALLS = 3, 60


class FakeInference:
    """Answers with its own name, in two parts, after others had time to come."""

    async def say(self) -> object:
        yield ray_serve.get_replica_context().replica_id.unique_id
        await asyncio.sleep(0)
        yield "end"


class Caller:
    """Another deployment, so that its calls are siblings of one request, as in the ingress."""

    async def __init__(self, handle: ray_serve.handle.DeploymentHandle) -> None:  # type: ignore[misc]  # Serve awaits it
        self._handle = handle.options(stream=True)

    async def ask(self, name: str) -> str:
        response = self._handle.options(multiplexed_model_id=name).say.remote()
        parts = [part async for part in response]
        return parts[0] if parts[1:] == ["end"] else ""

    async def run(self) -> dict[str, int]:
        while len(roster.listing("FakeInference")) < REPLICAS:
            await asyncio.sleep(0.05)
        names = sorted(roster.listing("FakeInference"))
        wanted = [names[number % REPLICAS] for number in range(CALLS)]
        wanted = [name if number % 4 else "" for number, name in enumerate(wanted)]
        answered = await asyncio.gather(*map(self.ask, wanted))
        astray = sum(bool(name) and name != who for name, who in zip(wanted, answered, strict=True))
        gone = await self.ask("no-such-replica")
        return {
            "answered": sum(map(bool, answered)),
            "astray": astray,
            "replicas": len(set(answered)),
            "unknown_is_answered": int(gone in names),
        }


async def main() -> None:
    """The handle of a driver in this mode needs a running event loop."""
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    ray_serve.start(proxy_location="Disabled")
    fake = ray_serve.deployment(
        FakeInference,
        num_replicas=REPLICAS,
        ray_actor_options={"num_cpus": 0},
        max_ongoing_requests=100,
        request_router_config=RequestRouterConfig(
            request_router_class="deployments.router:LeaseRouter"
        ),
    )
    caller = ray_serve.deployment(Caller, ray_actor_options={"num_cpus": 0})
    handle = ray_serve.run(caller.bind(fake.bind()), route_prefix=None)
    said = await handle.run.remote()
    sys.stdout.write(json.dumps(said) + "\n")
    await ray_serve.shutdown_async()
    ray.shutdown()


if __name__ == "__main__":
    asyncio.run(main())
