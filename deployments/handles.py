"""How Ray's handles are called: the only place that knows their errors and their actors' names.

Foreign errors end here and become those of `serve.errors`.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from time import monotonic, time
from typing import Any

import ray
from ray.exceptions import RayError
from ray.serve import exceptions as ray_serve_exceptions
from ray.serve import (
    get_deployment_actor,
    get_deployment_actor_context,
    get_replica_context,
)
from ray.serve._private.constants import SERVE_NAMESPACE, SERVE_PROXY_NAME
from ray.serve._private.utils import format_actor_name, get_deployment_actor_name
from ray.serve.context import _get_global_client
from ray.serve.handle import DeploymentHandle
from ray.util import get_node_ip_address, list_named_actors
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from serve.cache.client import Address
from serve.cache.reporter import Reporter
from serve.errors import CacheUnavailable, EngineDied, EngineNotReady, Overloaded
from serve.fleet import roster
from serve.ports import Call, Frame, Member, Report
from serve.settings import CacheSettings, InferenceSettings, Settings

SHARD_NAME = "cache-{}"
SCHEDULER_NAME = "scheduler-{}"
ADMIN_NAME = "admin"
EDGE_NAME = "RAYLLAMA_EDGE"
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
_EDGE_WITHIN_S = 5.0
_ACTOR_PREFIX = "SERVE_DEPLOYMENT_ACTOR::"


def deployment_of(pool: str) -> str:
    """The name of a pool's deployment."""
    return f"Inference-{pool}" if pool else "Inference"


class PoolHandle:
    """`serve.fleet.pooled.Deliver` over a Serve handle, whose router is `LeaseRouter`.

    `shape`: of the pool, for what its replicas have in common.
    """

    def __init__(self, handle: DeploymentHandle, pool: str, shape: InferenceSettings) -> None:
        self._handle = handle.options(stream=True)  # from now on it learns which replicas run
        self._named: dict[str, Any] = {"": self._handle.packed}
        self._pool = pool
        self._shape = shape

    @property
    def deployment(self) -> str:
        """The name of the pool's deployment."""
        return str(self._handle.deployment_name)

    @property
    def is_known(self) -> bool:
        """Has Serve said which replicas run?"""
        return roster.is_known(self.deployment)

    def members(self) -> Sequence[Member]:
        """The replicas that run. Those of one node share a store; attached ones share nothing."""
        listing = roster.listing(self.deployment)
        where = f"{self._shape.engine} {self._shape.models_dir}"
        is_shared = self._shape.engine != "attach"
        return [
            Member(name, self._pool, f"{node} {where}" if is_shared else name)
            for name, node in listing.items()
        ]

    def _method(self, replica: str) -> Any:
        """The method's handle for that replica. Raises `EngineNotReady` if it is not there."""
        running = roster.listing(self.deployment)
        if replica and replica not in running:
            self._named.pop(replica, None)
            raise EngineNotReady("that replica is gone")
        if replica not in self._named:
            self._named = {name: each for name, each in self._named.items() if name in running} | {
                "": self._named[""],
                replica: self._handle.options(multiplexed_model_id=replica).packed,
            }
        return self._named[replica]

    async def stream(self, call: Call) -> AsyncGenerator[Frame, None]:
        """The replica's frames. Closing the generator cancels the call on the replica.

        Raises `EngineDied` if the replica is lost, `EngineNotReady` if there is none to ask and
        `Overloaded` if Serve refuses to queue the call.
        """
        response = self._method(call.replica).remote(call)
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


def who_am_i() -> tuple[str, int]:
    """This replica's name (`ports.Member`), and its rank among those of its deployment."""
    context = get_replica_context()
    return str(context.replica_id.unique_id), int(context.rank.rank)


async def scheduler_address(pool: str) -> Address:
    """Where this deployment's scheduler of a pool listens, and its secret.

    Raises `EngineNotReady` while the actor is missing or being recreated.
    """
    try:
        return await _ask(get_deployment_actor(SCHEDULER_NAME.format(pool)))
    except (ValueError, RayError) as error:
        raise EngineNotReady("the scheduler is not there") from error


def schedulers(app: str, pool: str) -> list[Any]:
    """The schedulers' actors of a pool, for other processes: two during a rollout. Blocks."""
    found = []
    for entry in _named_actors(app, SCHEDULER_NAME.format(pool)):
        with suppress(ValueError, RayError):  # it has gone meanwhile
            found.append(ray.get_actor(entry["name"], entry["namespace"]))
    return found


async def scheduler_names(pool: str) -> list[str]:
    """The full names of a pool's schedulers, for a replica of another deployment."""
    app = get_replica_context().app_name
    named = await asyncio.to_thread(_named_actors, app, SCHEDULER_NAME.format(pool))
    return [entry["name"] for entry in named]


async def address_of(name: str) -> Address:
    """Where a deployment actor of that full name listens. Raises what Ray raises."""
    return await _ask(ray.get_actor(name, SERVE_NAMESPACE))


def _named_actors(app: str, name: str) -> list[dict[str, str]]:
    """Serve names a deployment actor by application, deployment, code version and name."""
    ours, last = f"{_ACTOR_PREFIX}{app}::", f"::{name}"
    return [
        entry
        for entry in list_named_actors(all_namespaces=True)
        if entry["name"].startswith(ours) and entry["name"].endswith(last)
    ]


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
        return await address_of(name)
    except (ValueError, RayError) as error:
        raise CacheUnavailable(f"cache shard {index} is not there") from error


async def sibling_view(pool: str) -> dict[str, Any]:
    """What the scheduler of a pool shows, for a deployment actor beside it.

    Raises `CacheUnavailable`.
    """
    context = get_deployment_actor_context()
    scheduler = SCHEDULER_NAME.format(pool)
    name = get_deployment_actor_name(context.deployment_id, scheduler, context.code_version)
    try:
        shown: dict[str, Any] = await ray.get_actor(name, SERVE_NAMESPACE).view.remote()
    except (ValueError, RayError) as error:
        raise CacheUnavailable(f"the scheduler of pool {pool!r} is not there") from error
    return shown


async def named_address(name: str) -> Address:
    """Where the actor of this name listens, and its secret. Raises `CacheUnavailable`."""
    try:
        return await address_of(name)
    except (ValueError, RayError) as error:
        raise CacheUnavailable(f"{name} is not there") from error


async def sibling_edges(method: str, *given: Any) -> list[dict[str, Any]]:
    """What the feeder of each node says, for a deployment actor of the same application.

    `method`: of `deployments.edge.Edge`. One that doesn't answer says `reason` and `why` alone.
    """
    context = get_deployment_actor_context()
    ours = f"{EDGE_NAME}::{context.deployment_id.app_name}::{context.code_version}::"
    named = await asyncio.to_thread(list_named_actors, all_namespaces=True)
    names = sorted(entry["name"] for entry in named if entry["name"].startswith(ours))

    async def ask(name: str) -> dict[str, Any]:
        try:
            actor = ray.get_actor(name, SERVE_NAMESPACE)
            said = await asyncio.wait_for(getattr(actor, method).remote(*given), _EDGE_WITHIN_S)
        except (ValueError, RayError, TimeoutError):
            said = {"reason": "its feeder is away", "is_there": False, "why": "its feeder is away"}
        return {"node": name.removeprefix(ours)[:8], **said}

    return list(await asyncio.gather(*map(ask, names)))


class Edges:
    """The feeders of the nodes that have a proxy, for an ingress; they are started where missing.

    `edge`: the actor's class. Ray ends an actor that nobody has a handle of, so they are kept.
    """

    def __init__(self, edge: type, settings: Settings) -> None:
        self._edge = edge
        self._settings = settings
        self._actors: dict[str, Any] = {}
        self._since = 0.0

    async def nodes(self) -> set[str]:
        """The nodes that have a proxy, and this one."""
        named = await asyncio.to_thread(list_named_actors, all_namespaces=True)
        names = {entry["name"] for entry in named if entry["namespace"] == SERVE_NAMESPACE}
        alive = [node["NodeID"] for node in await asyncio.to_thread(ray.nodes) if node["Alive"]]
        found = {node for node in alive if format_actor_name(SERVE_PROXY_NAME, node) in names}
        found.add(ray.get_runtime_context().get_node_id())
        self._actors = {node: actor for node, actor in self._actors.items() if node in found}
        return found

    async def address(self, node: str) -> Address | None:
        """Where a node's feeder listens, and its secret; None if its proxy has no edge.

        Raises `CacheUnavailable` while there is no feeder, or it waits for its turn.
        """
        self._since = self._since or time()
        if node not in self._actors:
            self._actors[node] = self._start(node)
        try:
            told = await self._actors[node].address.remote(self._since)
        except TimeoutError as error:
            raise CacheUnavailable("another feeder has that node's proxy") from error
        except (ValueError, RayError) as error:
            self._actors.pop(node, None)
            raise CacheUnavailable("that node's feeder is not there") from error
        return _address(told) if told else None

    def _start(self, node: str) -> Any:
        context = get_replica_context()
        replica, version = context.replica_id, context.code_version or ""
        shards = [
            get_deployment_actor_name(replica.deployment_id, SHARD_NAME.format(index), version)
            for index in range(self._settings.cache.shards)
        ]
        ours = f"{replica.deployment_id.app_name}::{version}"
        options = {
            "name": f"{EDGE_NAME}::{ours}::{node}",
            "namespace": SERVE_NAMESPACE,
            "get_if_exists": True,
            "max_restarts": -1,  # a name whose actor has died isn't free while anybody knows it
            "num_cpus": 0,
            "max_concurrency": 100,
            "scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=False),
        }
        return ray.remote(self._edge).options(**options).remote(self._settings, shards, ours)


async def every_shard_address(index: int) -> list[Address]:
    """The same for another deployment of this application, which Serve's own look-up leaves out.

    During a rollout there are two, and both are told.
    """
    app = get_replica_context().app_name
    found: list[Address] = []
    for entry in await asyncio.to_thread(_named_actors, app, SHARD_NAME.format(index)):
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
    return _address(await actor.address.remote())


def _address(told: Sequence[Any]) -> Address:
    host, port, secret = told
    return str(host), int(port), bytes(secret)


def http_host() -> str:
    """The address that this Serve instance listens on (`http_options.host`)."""
    return str(_get_global_client().http_config.host)


def listen_host() -> str:
    """Where our own sockets belong: loopback if HTTP is there too, else this node's address."""
    return "127.0.0.1" if http_host() in LOOPBACK else str(get_node_ip_address())
