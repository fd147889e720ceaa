"""The other replicas of this application, as one of them sees them: for the models they have."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress

from ray import serve as ray_serve
from ray.serve import get_replica_context

from deployments.handles import PoolHandle, deployment_of
from serve.errors import EngineNotReady
from serve.ports import Call, Frame
from serve.settings import Settings

_KNOWN_WITHIN_S = 10.0
_LOOK_S = 0.1


class Siblings:
    """`serve.ollama.peers.Peers` over Serve handles, one for each pool with the same engine.

    Made where the application is composed, used in a replica: handles are got there, once asked.
    """

    def __init__(self, settings: Settings, pool: str) -> None:
        self._shapes = {
            name: shape
            for name, shape in settings.shapes.items()
            if shape.engine == settings.shapes[pool].engine != "attach"
        }
        self._pools: list[PoolHandle] = []

    async def peers(self) -> Sequence[str]:
        """Those that run, without this one."""
        context = get_replica_context()
        if not self._pools:
            self._pools = [
                PoolHandle(
                    ray_serve.get_deployment_handle(deployment_of(name), context.app_name),
                    name,
                    shape,
                )
                for name, shape in self._shapes.items()
            ]
        with suppress(TimeoutError):
            async with asyncio.timeout(_KNOWN_WITHIN_S):
                while not all(pool.is_known for pool in self._pools):  # noqa: ASYNC110  (Serve's)
                    await asyncio.sleep(_LOOK_S)
        names = [member.name for pool in self._pools for member in pool.members()]
        return [name for name in names if name != context.replica_id.unique_id]

    async def stream(self, call: Call) -> AsyncGenerator[Frame, None]:
        """The answer of the replica that the call names."""
        for pool in self._pools:
            if any(member.name == call.replica for member in pool.members()):
                async with aclosing(pool.stream(call)) as frames:
                    async for frame in frames:
                        yield frame
                return
        raise EngineNotReady("that replica is gone")
