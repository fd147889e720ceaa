"""What the admin routes answer, as the OpenAPI document says it. Nothing is made by these types."""

from typing import Any

from msgspec import Struct, field

from serve.cache.explain import Explanation


class Loaded(Struct):
    """A model that a replica has loaded, or is loading."""

    model: str
    num_ctx: int
    state: str
    in_flight: int


class ReplicaView(Struct):
    """One inference replica."""

    replica: str
    state: str
    slots: int
    free: int
    loaded: list[Loaded]
    models: dict[str, str]
    engine_version: str
    last_error: str


class PoolView(Struct):
    """One pool: its figures and its replicas."""

    slots: int
    in_flight: int
    waiting: int
    replicas: list[ReplicaView]


class Fleet(Struct):
    """All pools."""

    pools: list[PoolView]


class Held(Struct):
    """What a tenant holds."""

    entries: int
    held_bytes: int


class ShardStats(Struct):
    """What a shard holds and has done, or the sum of all."""

    entries: int
    held_bytes: int
    max_bytes: int
    hits: int
    misses: int
    stored: int
    refused: dict[str, int]
    evicted: dict[str, int]
    replicas: int
    subscribers: int
    flights: int
    led: int
    joined: int
    tenants: dict[str, Held]
    is_paused: bool


class Requests(Struct):
    """What requests came to."""

    hits: dict[str, int]
    misses: dict[str, int]
    bypasses: dict[str, int]
    joined: int
    tokens_saved: int
    gpu_s_saved: float


class AllRequests(Requests):
    """The same, and for each model and tenant."""

    models: dict[str, Requests]
    tenants: dict[str, Requests]


class CacheStats(Struct):
    """The shards, the sum of them, what the requests came to, and each node's edge."""

    total: ShardStats
    shards: list[ShardStats]
    requests: AllRequests
    edge: list[dict[str, Any]]


class Explained(Explanation, frozen=True, kw_only=True):
    """What would become of a request. `edge`: is its answer there, on each node?"""

    edge: list[dict[str, Any]] = field(default_factory=list)


class Paused(Struct):
    """Whether the cache is passed by."""

    is_paused: bool


class PurgedEntries(Struct):
    """What was dropped, or with `dry_run` would be."""

    entries: int
    held_bytes: int
    dry_run: bool


class Imported(Struct):
    """What became of a file's entries."""

    taken: int
    expired: int
    skipped: dict[str, int]
