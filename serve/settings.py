"""All that can be configured: frozen models, unknown keys refused, the environment read once.

The application's settings are the `args:` of `serve.app:build` in a Serve config file
(`configs/*.yaml`); `Settings` is their type. This is the only module that reads the environment.

A wrong key is refused with its path and the nearest valid one: `cache.tttl_s: unknown key; did you
mean cache.ttl_s?`.
"""

import difflib
import ipaddress
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)

from serve.errors import ConfigError

_UNITS = {"": 1, "b": 1, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30}
_DURATIONS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def _bytes(value: object) -> object:
    """`128MiB`, `64 KiB` or a plain number of bytes → int."""
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", value)
    if match is None or match[2].lower() not in _UNITS:
        raise ValueError(f"{value!r} is not a size; write a number of bytes, or like 128MiB")
    return int(float(match[1]) * _UNITS[match[2].lower()])


def _seconds(value: object) -> object:
    """`1h`, `30s`, `250ms` or a plain number of seconds → float."""
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"\s*(-?\d+(?:\.\d+)?)\s*([a-z]*)\s*", value)
    if match is None or (match[2] and match[2] not in _DURATIONS):
        raise ValueError(f"{value!r} is not a duration; write seconds, or like 30s, 5m, 1h")
    return float(match[1]) * _DURATIONS.get(match[2] or "s", 1.0)


Size = Annotated[int, BeforeValidator(_bytes, json_schema_input_type=int | str), Field(ge=0)]
Seconds = Annotated[float, BeforeValidator(_seconds, json_schema_input_type=float | str)]
Policy = Literal["deterministic", "always", "off"]


class Section(BaseModel):
    """A frozen group of settings that knows no other keys."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, use_attribute_docstrings=True
    )

    @model_validator(mode="before")
    @classmethod
    def _name_the_nearest_key(cls, data: Any) -> Any:
        if isinstance(data, dict):
            for key in data:
                if key not in cls.model_fields:
                    near = difflib.get_close_matches(str(key), cls.model_fields, 1, 0.5)
                    hint = (
                        f"did you mean {near[0]!r}?"
                        if near
                        else "known: " + ", ".join(sorted(cls.model_fields))
                    )
                    raise ValueError(f"unknown key {key!r}; {hint}")
        return data


class InferenceSettings(Section):
    """The inference replicas: each owns one Ollama server, or what stands in for one."""

    engine: Literal["ollama", "embedded", "attach"] = "embedded"
    """`ollama` starts an installed Ollama per replica, `embedded` the engine that comes along
    (llama.cpp on CPU), `attach` uses one that already runs at `url` and owns no process."""

    url: str = ""
    """`engine: attach` only: where that Ollama listens, like http://127.0.0.1:11434."""

    urls: list[str] = []
    """`engine: attach` only, in place of `url`: several Ollamas, one replica for each."""

    ollama_binary: str = "ollama"
    """`engine: ollama` only: the executable, looked up on PATH."""

    models_dir: str = ""
    """`engine: ollama` only: the model store, one folder a node. Empty: the one that this node's
    installed Ollama uses (its OLLAMA_MODELS, else ~/.ollama/models or /usr/share/ollama/…)."""

    env: dict[str, SecretStr] = {}
    """More environment for the engine; it wins over what Rayllama sets."""

    replicas: Annotated[int, Field(ge=1)] = 1
    """How many replicas, each with a server of its own."""

    min_replicas: Annotated[int, Field(ge=0)] | None = None
    """With `max_replicas`, instead of `replicas`: as many run as the load needs, at least so many.
    0: none while nobody asks; the first request waits for a replica."""

    max_replicas: Annotated[int, Field(ge=1)] | None = None
    """As many replicas as the load may have."""

    target_load: Annotated[float, Field(gt=0, le=1)] = 0.7
    """Autoscaling: requests at work and waiting, for each slot, that are just right."""

    upscale_delay_s: Annotated[Seconds, Field(ge=0)] = 2
    """Autoscaling: how long there must be more load before there are more replicas. From none to
    one there is no delay."""

    downscale_delay_s: Annotated[Seconds, Field(ge=0)] = 300
    """Autoscaling: how long there must be less load before there are fewer replicas."""

    num_gpus: Annotated[float, Field(ge=0)] = 1
    """GPUs that Ray reserves for each replica. 0 on a machine without."""

    accelerator_type: str = ""
    """The kind of GPU that a replica needs, in Ray's words, like `A100`; empty: any."""

    resources: dict[str, Annotated[float, Field(gt=0)]] = {}
    """Custom resources of Ray's nodes that each replica needs, for nodes of one kind."""

    num_cpus: Annotated[float, Field(ge=0)] = 1
    """CPUs that Ray reserves for each replica: bookkeeping, not a limit. 0 on a laptop."""

    slots: Annotated[int, Field(ge=1, le=256)] = 4
    """Requests that one replica computes at once (OLLAMA_NUM_PARALLEL)."""

    max_queue: Annotated[int, Field(ge=0)] = 512
    """Requests that may wait for a slot; more get Ollama's own 503."""

    queue_timeout_s: Annotated[Seconds, Field(gt=0)] = 600
    """How long a request waits for a slot, a cold model or a first replica, then 503."""

    runner_turn_s: Annotated[Seconds, Field(ge=0)] = 15
    """A loaded model that is in use stays loaded for so long at least before another that waits
    takes its place; and so long after its last use it counts as in use."""

    runner_patience_s: Annotated[Seconds, Field(ge=0)] = 2
    """How long a request waits for a free slot of its loaded model before the model is loaded once
    more in another's place."""

    context_length: Annotated[int, Field(ge=1)] = 4096
    """Tokens of context a slot (OLLAMA_CONTEXT_LENGTH), explicit so that all replicas agree."""

    keep_alive: str = "-1"
    """How long an idle model stays loaded (OLLAMA_KEEP_ALIVE); -1: until its place is needed."""

    max_loaded_models: Annotated[int, Field(ge=0)] = 0
    """Models loaded at once in one server (OLLAMA_MAX_LOADED_MODELS); 0: Ollama's own choice, 3."""

    kv_cache_type: Literal["", "f16", "q8_0", "q4_0"] = ""
    """OLLAMA_KV_CACHE_TYPE; empty: f16."""

    flash_attention: bool | None = None
    """OLLAMA_FLASH_ATTENTION; null: where the hardware supports it."""

    models: list[str] = []
    """Models that must be loaded before a replica counts as ready."""

    serves: list[str] = []
    """More models of this pool: loaded when they are asked for."""

    mirror: str = ""
    """A registry that is asked for `models` and `serves` in place of Ollama's, like
    `models.example:5000` or `http://10.0.0.1:5000`; `HOST/FOLDER`: there, not in `library`."""

    identity: str = ""
    """The key pair's private file (`id_ed25519`) by which a registry knows this pool's engines, for
    private models and for push. Empty: each engine makes one of its own."""

    fetch_stall_s: Annotated[Seconds, Field(gt=0)] = 300
    """How long nothing more may come of a model that is fetched at start; the whole may take as
    long as it does."""

    start_timeout_s: Annotated[Seconds, Field(gt=0)] = 90
    """How long a server may take to its first answer of /api/version."""

    load_timeout_s: Annotated[Seconds, Field(gt=0)] = 600
    """How long one of `models` may take to load."""

    stop_timeout_s: Annotated[Seconds, Field(gt=0)] = 10
    """How long a server may take to stop after SIGTERM before its whole tree is killed."""

    drain_timeout_s: Annotated[Seconds, Field(gt=0)] = 600
    """How long a leaving replica may finish its streams."""

    max_restarts: Annotated[int, Field(ge=0)] = 3
    """Restarts of a dead server within `restart_window_s`; more, and the replica is replaced."""

    restart_window_s: Annotated[Seconds, Field(gt=0)] = 60
    """The window of `max_restarts`."""

    canary_after_s: Annotated[Seconds, Field(gt=0)] = 60
    """After so long without a byte from the engine it is asked for one token (or embedding), of a
    model that is loaded. Left unanswered, the engine is wedged and is restarted."""

    canary_timeout_s: Annotated[Seconds, Field(gt=0)] = 30
    """How long an engine with nothing else to do may take for that."""

    stall_timeout_s: Annotated[Seconds, Field(gt=0)] = 600
    """How long an engine at work may send nothing at all and leave that unanswered: longer than its
    longest prompt, and the longest load of a model, can take."""

    require_gpu: bool = False
    """An engine that found a GPU when it started, and then has a model on the CPU alone, is
    restarted; so no model of this pool may be meant to be there (`PARAMETER num_gpu 0`). Without
    this it is a warning in the log."""

    @property
    def attached(self) -> list[str]:
        """The addresses of `engine: attach`, one for each replica."""
        return self.urls or [self.url] * self.replicas

    @model_validator(mode="after")
    def _attach_needs_a_url(self) -> Self:
        if (self.engine == "attach") != bool(self.url or self.urls) or (self.url and self.urls):
            raise ValueError(
                "`url` and `engine: attach` belong together: give both or neither (for several "
                "Ollamas, `urls`)"
            )
        for url in self.urls or [self.url]:
            if url and not re.match(r"https?://[^/]+", url):
                raise ValueError(f"url: {url!r} is not like http://127.0.0.1:11434")
        return self

    @model_validator(mode="after")
    def _a_mirror_is_a_host(self) -> Self:
        host = r"(https?://)?[A-Za-z0-9_][A-Za-z0-9_.:-]*(/[A-Za-z0-9_][A-Za-z0-9_-]*)?/?"
        if self.mirror and not re.fullmatch(host, self.mirror):
            raise ValueError(
                f"mirror: {self.mirror!r} is not like host:5000, host/folder or http://host:5000"
            )
        return self

    @model_validator(mode="after")
    def _bounds_belong_together(self) -> Self:
        if (self.min_replicas is None) != (self.max_replicas is None):
            raise ValueError("give both `min_replicas` and `max_replicas`, or `replicas` alone")
        if self.max_replicas is not None:
            if (self.min_replicas or 0) > self.max_replicas:
                raise ValueError("min_replicas: more than `max_replicas`")
            if self.urls:
                raise ValueError("min_replicas: `urls` have one replica each, always")
        return self


class PoolSettings(InferenceSettings):
    """One pool of replicas that are alike. What it leaves out is as in `inference`."""

    default: bool = False
    """Whether models that no pool names are asked of this one. With no such pool, they get 404."""


class GgufModel(Section):
    """A GGUF file of one's own for the embedded engine."""

    name: str
    """The name that clients use, like `mymodel:7b`."""

    path: str
    """The GGUF file, absolute."""

    template: str = ""
    """A file with a Jinja chat template that replaces the one inside the GGUF; empty: that one."""

    parameters: dict[str, Any] = {}
    """Defaults for `options`, as a Modelfile's PARAMETER lines."""

    system: str = ""
    """The system message where a request brings none, as a Modelfile's SYSTEM."""


class EmbeddedSettings(Section):
    """The embedded engine."""

    store: str = ""
    """Where converted models are kept. Empty: $XDG_CACHE_HOME/rayllama, or ~/.cache/rayllama."""

    threads: Annotated[int, Field(ge=0)] = 0
    """Threads a model; 0: one less than there are cores, so that no thread waits for one."""

    models: list[GgufModel] = []
    """Models beside the two that come along (smollm2:135m, all-minilm)."""


class SnapshotSettings(Section):
    """The shared cache on disk, so that it is warm again after a restart."""

    url: str = ""
    """A folder that every node reaches, as an absolute path or an fsspec URL (s3://…, with its
    package installed); "": none. Answers lie there readable: let nobody else read or write it."""

    interval_s: Annotated[Seconds, Field(gt=0)] = 300
    """How often each shard writes what it holds: what a killed one loses at most."""

    @model_validator(mode="after")
    def _is_absolute(self) -> Self:
        if self.url and "://" not in self.url and not self.url.startswith("/"):
            raise ValueError(f"url: {self.url!r} is neither an absolute path nor like s3://bucket")
        return self


class CacheSettings(Section):
    """The shared answer cache, and the near cache in each ingress replica."""

    policy: Policy = "deterministic"
    """What is cached: `deterministic` (embeddings, temperature 0, an explicit seed), `always`
    (sampled answers too: a repeated question gets the same answer), or `off`."""

    models: dict[str, Policy] = {}
    """Another policy for some models, by name."""

    eviction: Literal["lru", "tiny_lfu"] = "lru"
    """Which entry leaves a full store."""

    ttl_s: Annotated[Seconds, Field(gt=0)] = 3600
    """How long an answer lives."""

    idle_ttl_s: Annotated[Seconds, Field(gt=0)] | None = None
    """How long an answer lives unasked for; null: as long as `ttl_s`."""

    stale_while_revalidate_s: Seconds = 0
    """For so long after `ttl_s` an answer is still given, at once, while a new one is made."""

    stale_if_error_s: Seconds = 0
    """For so long after `ttl_s` an answer is still given if the engines are full, dead or away."""

    max_bytes: Size = 128 << 20
    """The shared store, all shards together, in bytes of entries."""

    max_entry_bytes: Size = 1 << 20
    """A larger answer is not stored."""

    min_gpu_ms_per_kib: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0
    """An answer that took the engine less than so many milliseconds for each KiB that it would
    take up is not stored; one whose engine tells no time (`/api/embeddings`) took none. 0: all
    are."""

    full_ttl_gpu_ms_per_kib: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0
    """An answer that took the engine less than so many milliseconds for each KiB leaves the shared
    store earlier, in proportion: half as many, after half the time. Not before a minute. 0: all
    stay as long."""

    tenant_share: Annotated[float, Field(gt=0, le=1)] = 1
    """The part of `max_bytes` that one tenant may hold; beyond it, its own least recently used
    answers leave."""

    near_max_bytes: Size = 16 << 20
    """The near cache of each ingress replica. 0: none, every hit asks the shard."""

    lease_s: Annotated[Seconds, Field(gt=0)] = 2
    """How long near answers may be served after the last word from the shard."""

    shards: Annotated[int, Field(ge=1, le=64)] = 1
    """Cache actors."""

    lookup_timeout_s: Annotated[Seconds, Field(gt=0)] = 0.25
    """How long a shard may take to say whether it has an answer, or who generates it, before it
    counts as a miss; a connection that is lost is one at once."""

    join_sampled: bool = False
    """May identical requests that run at the same time share one answer even if it is sampled, and
    so is never kept? Answers that may be kept are shared always."""

    catalogue_poll_s: Annotated[Seconds, Field(gt=0)] = 1
    """How often each replica reads its engine's list of models: a tag changed behind Rayllama's
    back is seen everywhere within this plus `lease_s`."""

    snapshot: SnapshotSettings = SnapshotSettings()
    """What is left of the cache over a restart."""

    @property
    def kept_s(self) -> float:
        """How long a shard keeps an answer: also while it is only to be given in need."""
        return self.ttl_s + max(self.stale_while_revalidate_s, self.stale_if_error_s)


class IngressSettings(Section):
    """The HTTP front."""

    replicas: Annotated[int, Field(ge=1)] = 1
    """How many, fixed: a change of their number reloads HAProxy and later cuts old streams."""

    num_cpus: Annotated[float, Field(ge=0)] = 1
    """CPUs that Ray reserves for each. 0 on a laptop."""

    max_connections: Annotated[int, Field(ge=1)] = 20000
    """Requests open at once in one ingress replica (Serve's max_ongoing_requests)."""

    max_body_bytes: Annotated[Size, Field(gt=0)] = 64 << 20
    """A larger request body gets 413."""

    max_upload_backlog_bytes: Annotated[Size, Field(gt=0)] = 64 << 20
    """An upload of a model that is so far ahead of the slowest disk that it goes to is cut: Serve
    would keep all of it in memory."""

    deadline_s: Annotated[Seconds, Field(gt=0)] | None = None
    """How long a request may wait for its first byte, then 504; null: as long as it takes."""

    origins: list[str] = []
    """Origins allowed beside Ollama's own (localhost, app://, …), such as `chrome-extension://*`: a
    `*` stands for anything."""

    allow_public: bool = False
    """Listening beyond loopback without `auth.keys` is refused unless this says it is meant."""

    log_sample: Annotated[float, Field(ge=0, le=1)] = 0.001
    """The share of hits that get a line in the log; every other request gets one. A line costs
    about half a millisecond: one for each hundredth hit was 5 % of what hits cost."""

    drain_timeout_s: Annotated[Seconds, Field(gt=0)] = 900
    """How long a leaving ingress replica may finish its streams."""


class Key(Section):
    """One API key, known by its hash alone."""

    sha256: SecretStr
    """The lower-case hex sha256 of the key: `printf %s KEY | sha256sum`."""

    tenant: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
    """Whose it is: answers are shared within a tenant, never across."""

    admin: bool = False
    """May it use routes that change or reveal more than its own requests?"""

    @model_validator(mode="after")
    def _is_a_hash(self) -> Self:
        if not re.fullmatch(r"[0-9a-f]{64}", self.sha256.get_secret_value()):
            raise ValueError("sha256: not 64 lower-case hex digits; `printf %s KEY | sha256sum`")
        return self


class AuthSettings(Section):
    """Who may call."""

    keys: list[Key] = []
    """None: everybody, as one tenant, `default`."""

    @property
    def tenants(self) -> list[str]:
        """All there are, in order."""
        return sorted({key.tenant for key in self.keys} or {"default"})

    @model_validator(mode="after")
    def _one_tenant_a_key(self) -> Self:
        seen: dict[str, int] = {}
        for number, key in enumerate(self.keys):
            first = seen.setdefault(key.sha256.get_secret_value(), number)
            if first != number:
                raise ValueError(f"keys.{number} and keys.{first} are the same key: keep one")
        return self


class AdminSettings(Section):
    """The admin API: counts of the cache, explanations, purges. `rayllama cache` speaks to it."""

    host: str = "127.0.0.1"
    """Where it listens, on the head node. Beyond loopback only if one of `auth.keys` is an admin's:
    without keys, whoever reaches it may purge."""

    port: Annotated[int, Field(ge=0, le=65535)] = 8001
    """Its port, not that of any client. 0: there is none."""

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can connect."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


class EdgeSettings(Section):
    """The hottest answers, given by Serve's HAProxy itself, where that is started by
    `rayllama-haproxy` (RAY_SERVE_HAPROXY_BINARY_PATH; `rayllama up` sees to it)."""

    enabled: bool = True
    """Are there answers at the edge? If not, every request goes to an ingress."""

    min_hits: Annotated[int, Field(ge=1)] = 4
    """How often an answer must be given from one near cache within ten seconds to go there."""

    max_entries: Annotated[int, Field(ge=0, le=100_000)] = 10_000
    """How many answers, on each node; the coldest leave."""

    max_bytes: Size = 32 << 20
    """What they may take up in each node's HAProxy, in bytes."""


class Settings(Section):
    """Rayllama's settings: the `args:` of the application in a Serve config file."""

    inference: InferenceSettings = InferenceSettings()

    pools: dict[
        Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9-]{0,39}$")], PoolSettings
    ] = {}
    """Several pools of replicas, by name, each with models of its own (`models`, `serves`). None:
    one, as `inference` says, for all models."""

    embedded: EmbeddedSettings = EmbeddedSettings()
    cache: CacheSettings = CacheSettings()
    ingress: IngressSettings = IngressSettings()
    auth: AuthSettings = AuthSettings()
    admin: AdminSettings = AdminSettings()
    edge: EdgeSettings = EdgeSettings()

    @property
    def shapes(self) -> dict[str, InferenceSettings]:
        """The pools by name; one without a name, if none is configured."""
        return dict(self.pools) or {"": self.inference}

    @model_validator(mode="before")
    @classmethod
    def _pools_begin_from_inference(cls, data: Any) -> Any:
        if not isinstance(data, dict) or not isinstance(data.get("pools"), dict):
            return data
        given = data.get("inference") or {}
        if isinstance(given, InferenceSettings):
            given = given.model_dump(exclude_unset=True)
        if not isinstance(given, dict):
            return data
        pools = {
            name: {**given, **pool} if isinstance(pool, dict) else pool
            for name, pool in data["pools"].items()
        }
        return {**data, "pools": pools}

    @model_validator(mode="after")
    def _one_default_pool(self) -> Self:
        defaults = [name for name, pool in self.pools.items() if pool.default]
        if len(defaults) > 1:
            raise ValueError(f"pools: {' and '.join(defaults)} are both `default`: keep one")
        return self

    @model_validator(mode="after")
    def _a_public_admin_needs_a_key(self) -> Self:
        is_open = self.admin.port and not any(key.admin for key in self.auth.keys)
        if is_open and not self.admin.is_loopback:
            raise ValueError(
                f"admin.host: {self.admin.host} lets everybody on the network purge the cache; "
                "give one of `auth.keys` `admin: true` (`rayllama key` makes one), or listen on "
                "127.0.0.1"
            )
        return self


def parse(data: object) -> Settings:
    """Settings from plain data, or a `ConfigError` with one line a fault: its path and the fix."""
    try:
        return Settings.model_validate(data)
    except ValidationError as exc:
        raise ConfigError(explain(exc)) from None


def explain(error: ValidationError) -> str:
    """One line a fault, as `path: what is wrong`."""
    lines = []
    for fault in error.errors(include_url=False, include_context=False, include_input=False):
        path = ".".join(str(part) for part in fault["loc"]) or "args"
        lines.append(f"{path}: {fault['msg'].removeprefix('Value error, ')}")
    return "\n".join(lines)


class Environment(BaseModel):
    """What Rayllama takes from the environment, read once at import."""

    model_config = ConfigDict(frozen=True)

    home: Path
    cache_home: Path
    state_home: Path
    ollama_models: Path | None
    haproxy: bool
    throughput: bool
    haproxy_binary: str
    path: str


def environment() -> Environment:
    """The environment of this process as it is now."""
    get = os.environ.get
    home = Path(get("HOME") or "/")
    models = get("OLLAMA_MODELS")
    return Environment(
        home=home,
        cache_home=Path(get("XDG_CACHE_HOME") or home / ".cache"),
        state_home=Path(get("XDG_STATE_HOME") or home / ".local" / "state"),
        ollama_models=Path(models) if models else None,
        haproxy=get("RAY_SERVE_ENABLE_HA_PROXY") == "1",
        throughput=get("RAY_SERVE_THROUGHPUT_OPTIMIZED") == "1",
        haproxy_binary=get("RAY_SERVE_HAPROXY_BINARY_PATH") or "",
        path=get("PATH") or os.defpath,
    )


def child_environment(extra: dict[str, str], drop: tuple[str, ...] = ()) -> dict[str, str]:
    """This process's environment for a child, without names that start with one of `drop`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(drop)}
    return kept | extra


def ollama_variables() -> dict[str, str]:
    """The `OLLAMA_*` variables of this process, trimmed of spaces and quotes as Ollama does."""
    return {
        name: value.strip().strip("\"'")
        for name, value in os.environ.items()
        if name.startswith("OLLAMA_")
    }
