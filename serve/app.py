"""The application as Ray Serve deploys it: `import_path: serve.app:build`.

Ray reads the annotation of `build`'s argument at run time, so this module must not postpone
annotations (`from __future__ import annotations` would silently pass a plain dict).
"""

import ray
from ray import serve as ray_serve
from ray.serve.config import DeploymentActorConfig
from ray.serve.handle import DeploymentHandle

from deployments.admin import Admin
from deployments.cache import Cache
from deployments.handles import ADMIN_NAME, SHARD_NAME, ReportToShards
from deployments.inference import Inference
from deployments.ingress import Ingress
from serve.cache.places import place
from serve.cache.service import policies
from serve.settings import Settings

_CONTROL_CALLS = 64
"""Calls that no slot is needed for (tags, ps, show …), in flight beside those that wait."""

_HEAD_NODE = "node:__internal_head__"
"""A resource that Ray gives to the head node alone."""


def build(args: Settings) -> ray_serve.Application:
    """The deployments of one Rayllama, bound together. Raises `ConfigError`."""
    policies(args.cache)  # refused here rather than in each replica
    place(args.cache.snapshot.url)
    inference = ray_serve.deployment(
        Inference,
        name="Inference",
        num_replicas=args.inference.replicas,
        ray_actor_options={
            "num_gpus": args.inference.num_gpus,
            "num_cpus": args.inference.num_cpus,
        },
        max_ongoing_requests=args.inference.slots + args.inference.max_queue + _CONTROL_CALLS,
        graceful_shutdown_timeout_s=args.inference.drain_timeout_s,
    ).bind(args, ReportToShards(args.cache))
    shards = [
        DeploymentActorConfig(
            name=SHARD_NAME.format(index),
            actor_class=ray.remote(Cache),
            init_kwargs={
                "settings": args.cache,
                "index": index,
                "tenants": args.auth.tenants,
            },
            # Spread: one node that is lost costs one shard's warmth, and memory is every node's.
            actor_options={
                "num_cpus": 0,
                "max_concurrency": 100,
                "scheduling_strategy": "SPREAD",
            },
        )
        for index in range(args.cache.shards)
    ]
    ingress: DeploymentHandle = ray_serve.deployment(
        ray_serve.ingress()(Ingress),
        name="Ingress",
        num_replicas=args.ingress.replicas,
        ray_actor_options={"num_cpus": args.ingress.num_cpus},
        max_ongoing_requests=args.ingress.max_connections,
        graceful_shutdown_timeout_s=args.ingress.drain_timeout_s,
        deployment_actors=[*shards, *_admin(args)],
    )
    return ingress.bind(args, inference)


def _admin(args: Settings) -> list[DeploymentActorConfig]:
    """The admin API's actor, on the head node, where the operator's command looks for it."""
    if not args.admin.port:
        return []
    actor = DeploymentActorConfig(
        name=ADMIN_NAME,
        actor_class=ray.remote(Admin),
        init_kwargs={"settings": args},
        actor_options={"num_cpus": 0, "resources": {_HEAD_NODE: 0.001}},
    )
    return [actor]
