"""How Ray's handles are called: the only place that knows their errors and their actors' names.

Foreign errors end here and become those of `serve.errors`.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import Any

import ray
from ray.exceptions import RayError
from ray.serve import exceptions as ray_serve_exceptions
from ray.serve import (
    get_deployment_actor,
    get_deployment_actor_context,
    get_replica_context,
)
from ray.serve._private.constants import SERVE_NAMESPACE
from ray.serve._private.utils import get_deployment_actor_name
from ray.serve.context import _get_global_client
from ray.serve.handle import DeploymentHandle
from ray.util import get_node_ip_address, list_named_actors

from serve.cache.client import Address
from serve.cache.reporter import Reporter
from serve.errors import CacheUnavailable, EngineDied, EngineNotReady, Overloaded
from serve.ports import Call, Frame, Report
from serve.settings import CacheSettings

SHARD_NAME = "cache-{}"
ADMIN_NAME = "admin"
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
_ACTOR_PREFIX = "SERVE_DEPLOYMENT_ACTOR::"


class InferenceHandle:
    """`ports.Inference` over a Serve handle."""

    def __init__(self, handle: DeploymentHandle) -> None:
        self._stream = handle.options(stream=True).packed

    async def stream(self, call: Call) -> AsyncGenerator[Frame, None]:
        """The replica's frames. Closing the generator cancels the call on the replica.

        Raises `EngineDied` if the replica is lost, `EngineNotReady` if there is none to ask and
        `Overloaded` if Serve refuses to queue the call.
        """
        response = self._stream.remote(call)
        try:
            async for frames in response:
                for frame in frames:
                    yield frame
        except ray_serve_exceptions.BackPressureError as error:
            raise Overloaded from error
        except ray_serve_exceptions.DeploymentUnavailableError as error:
            raise EngineNotReady("no inference replica is available") from error
        except (RayError, ray_serve_exceptions.RayServeException) as error:
            raise EngineDied from error
        finally:
            response.cancel()


async def shard_address(index: int) -> Address:
    """Where this deployment's cache shard listens, and its secret: (host, port, secret).

    Raises `CacheUnavailable` while the actor is missing or being recreated.
    """
    try:
        actor = get_deployment_actor(SHARD_NAME.format(index))
        return await _ask(actor)
    except (ValueError, RayError) as error:
        raise CacheUnavailable(f"cache shard {index} is not there") from error


async def sibling_shard_address(index: int) -> Address:
    """The same for a deployment actor, beside whose shards of the same code version it stands.

    Raises `CacheUnavailable`.
    """
    context = get_deployment_actor_context()
    shard = SHARD_NAME.format(index)
    name = get_deployment_actor_name(context.deployment_id, shard, context.code_version)
    try:
        return await _ask(ray.get_actor(name, SERVE_NAMESPACE))
    except (ValueError, RayError) as error:
        raise CacheUnavailable(f"cache shard {index} is not there") from error


async def every_shard_address(index: int) -> list[Address]:
    """The same for another deployment of this application, which Serve's own look-up leaves out.

    Serve names a deployment actor by application, deployment, code version and name: during a
    rollout there are two, and both are told.
    """
    ours = f"{_ACTOR_PREFIX}{get_replica_context().app_name}::"
    last = "::" + SHARD_NAME.format(index)
    named = await asyncio.to_thread(list_named_actors, all_namespaces=True)
    found: list[Address] = []
    for entry in named:
        if entry["name"].startswith(ours) and entry["name"].endswith(last):
            with suppress(ValueError, RayError):  # it has gone meanwhile
                found.append(await _ask(ray.get_actor(entry["name"], entry["namespace"])))
    if not found:
        raise CacheUnavailable(f"cache shard {index} is not there")
    return found


class ReportToShards:
    """Tells every shard of this application what a replica's engine has. Owns the connections."""

    def __init__(self, settings: CacheSettings) -> None:
        self._settings = settings
        self._reporter: Reporter | None = None

    async def __call__(self) -> Callable[[Report], Awaitable[None]]:
        """What to call with each report."""
        if self._reporter is None:
            self._reporter = Reporter(
                [partial(every_shard_address, index) for index in range(self._settings.shards)],
                clock=monotonic,
                lease_s=self._settings.lease_s,
            )
        return self._reporter.report


async def _ask(actor: Any) -> Address:
    host, port, secret = await actor.address.remote()
    return str(host), int(port), bytes(secret)


def http_host() -> str:
    """The address that this Serve instance listens on (`http_options.host`)."""
    return str(_get_global_client().http_config.host)


def listen_host() -> str:
    """Where our own sockets belong: loopback if HTTP is there too, else this node's address."""
    return "127.0.0.1" if http_host() in LOOPBACK else str(get_node_ip_address())
