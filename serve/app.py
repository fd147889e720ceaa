"""The application as Ray Serve deploys it: `import_path: serve.app:build`.

Ray reads the annotation of `build`'s argument at run time, so this module must not postpone
annotations (`from __future__ import annotations` would silently pass a plain dict).
"""

from functools import partial
from typing import Any

import ray
from ray import serve as ray_serve
from ray.serve.config import (
    AutoscalingConfig,
    AutoscalingPolicy,
    DeploymentActorConfig,
    RequestRouterConfig,
)
from ray.serve.handle import DeploymentHandle

from deployments.admin import Admin
from deployments.cache import Cache
from deployments.edge import Edge
from deployments.engine_gauges import count_restart
from deployments.handles import (
    ADMIN_NAME,
    SCHEDULER_NAME,
    SHARD_NAME,
    Edges,
    ReportToShards,
    address_of,
    deployment_of,
    scheduler_names,
    who_am_i,
)
from deployments.inference import Inference
from deployments.ingress import Ingress
from deployments.peers import Siblings
from deployments.scheduler import Scheduler
from deployments.seat import Seat
from serve.cache.places import place
from serve.cache.service import policies
from serve.fleet.pools import Pools
from serve.settings import InferenceSettings, Settings

_CONTROL_CALLS = 64
"""Calls that no slot is needed for (tags, ps, show …), in flight beside those that wait."""

_ON_HEAD = {"num_cpus": 0, "resources": {"node:__internal_head__": 0.001}}
"""Options of an actor that is to be on the head node: Ray gives that resource to it alone."""


LEASES = "deployments.router:LeaseRouter"
"""Delivers calls where their leases say."""


def build(args: Settings) -> ray_serve.Application:
    """The deployments of one Rayllama, bound together. Raises `ConfigError`."""
    return compose(args, Ingress, LEASES)


def compose(args: Settings, front: type[Ingress], router: str) -> ray_serve.Application:
    """The same with another front and router, for comparisons. Raises `ConfigError`."""
    policies(args.cache)  # refused here rather than in each replica
    Pools(args)
    place(args.cache.snapshot.url)
    inference = {pool: _inference(args, pool, router) for pool in args.shapes}
    # Spread: one node that is lost costs one shard's warmth, and memory is every node's.
    spread = {"num_cpus": 0, "max_concurrency": 100, "scheduling_strategy": "SPREAD"}
    shards = [
        _actor(SHARD_NAME.format(index), spread, Cache, args.cache, index, args.auth.tenants)
        for index in range(args.cache.shards)
    ]
    ingress: DeploymentHandle = ray_serve.deployment(
        ray_serve.ingress()(front),
        name="Ingress",
        num_replicas=args.ingress.replicas,
        ray_actor_options={"num_cpus": args.ingress.num_cpus},
        max_ongoing_requests=args.ingress.max_connections,
        graceful_shutdown_timeout_s=args.ingress.drain_timeout_s,
        deployment_actors=[*shards, *_schedulers(args), *_admin(args)],
    )
    return ingress.bind(args, inference, Edges(Edge, args))


def _inference(args: Settings, pool: str, router: str) -> ray_serve.Application:
    """One pool: a deployment of replicas that are alike."""
    shape = args.shapes[pool]
    options: dict[str, Any] = {"num_gpus": shape.num_gpus, "num_cpus": shape.num_cpus}
    if shape.accelerator_type:
        options["accelerator_type"] = shape.accelerator_type
    if shape.resources:
        options["resources"] = dict(shape.resources)
    scale: dict[str, Any] = {"num_replicas": len(shape.urls) or shape.replicas}
    if shape.max_replicas is not None:
        scale = {"autoscaling_config": _autoscaling(shape, pool)}
    told = partial(scheduler_names, pool), address_of
    seat = Seat(pool, who_am_i, told, Siblings(args, pool), count_restart)
    return ray_serve.deployment(
        Inference,
        name=deployment_of(pool),
        ray_actor_options=options,
        max_ongoing_requests=shape.slots + shape.max_queue + _CONTROL_CALLS,
        graceful_shutdown_timeout_s=shape.drain_timeout_s,
        request_router_config=RequestRouterConfig(request_router_class=router),
        **scale,
    ).bind(args, ReportToShards(args.cache), seat)


def _autoscaling(shape: InferenceSettings, pool: str) -> AutoscalingConfig:
    return AutoscalingConfig(
        min_replicas=shape.min_replicas or 0,
        max_replicas=shape.max_replicas or 1,
        initial_replicas=shape.min_replicas or 0,
        target_ongoing_requests=shape.slots * shape.target_load,
        upscale_delay_s=0,  # the policy's own
        downscale_delay_s=shape.downscale_delay_s,
        metrics_interval_s=1,
        look_back_period_s=2,
        policy=AutoscalingPolicy(
            policy_function="deployments.autoscaling:SlotPolicy",
            policy_kwargs={
                "pool": pool,
                "slots": shape.slots,
                "target_load": shape.target_load,
                "upscale_delay_s": shape.upscale_delay_s,
            },
        ),
    )


def _schedulers(args: Settings) -> list[DeploymentActorConfig]:
    """One actor for each pool, on the head node: GPU nodes come and go."""
    options = {**_ON_HEAD, "max_concurrency": 100}
    return [
        _actor(SCHEDULER_NAME.format(pool), options, Scheduler, args, pool) for pool in args.shapes
    ]


def _admin(args: Settings) -> list[DeploymentActorConfig]:
    """The admin API's actor, on the head node, where the operator's command looks for it."""
    return [_actor(ADMIN_NAME, _ON_HEAD, Admin, args)] if args.admin.port else []


def _actor(name: str, options: dict[str, Any], kind: Any, *given: Any) -> DeploymentActorConfig:
    """An actor of the ingress deployment: of the class `kind`, made of what is `given`.

    Which is bound to the class instead of being its `init_args`: those are part of what Serve's
    status API tells, in JSON (`serve status`, KubeRay's health check). Settings hold secrets, which
    are not JSON, and no business of who reads a status.
    """

    def init(self: Any) -> None:
        kind.__init__(self, *given)

    bound = type(kind.__name__, (kind,), {"__init__": init, "__module__": kind.__module__})
    return DeploymentActorConfig(name=name, actor_class=ray.remote(bound), actor_options=options)
