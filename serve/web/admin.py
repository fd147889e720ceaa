"""The admin API: an application of its own, on a port of its own, that no client is routed to.

Who may call: whoever holds a key with `admin: true`; where no keys are configured, whoever reaches
the port, which then is on loopback (`serve.settings`). As with the ingress a loopback listener
answers only to names of this machine (`serve.web.origin`); pages of other origins may not call at
all, whatever `ingress.origins` says.

Errors are `{"error": text}`; 503 where a shard doesn't answer.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Struct, structs
from starlette.types import ASGIApp, Receive, Scope, Send

from serve.cache.explain import Asking, explain
from serve.cache.key import KEY_BYTES
from serve.cache.service import AnswerCache
from serve.errors import BadRequest, CacheUnavailable, Forbidden, RayllamaError, Unforeseen
from serve.ports import Clock
from serve.web.body import ClientGone, read_body
from serve.web.dialects import Asked
from serve.web.exchange import Exchange
from serve.web.failure import failure
from serve.web.identity import Directory
from serve.web.origin import Hosts
from serve.web.reply import Begun, Reply
from serve.web.requests import requests_of
from serve.wire.errors import native_body
from serve.wire.names import canonical

log = logging.getLogger("rayllama.admin")

JSON = b"application/json; charset=utf-8"
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class AdminServices:
    """The parts behind the admin routes. `now`: seconds since the epoch."""

    answers: AnswerCache
    directory: Directory
    hosts: Hosts
    now: Clock
    max_body_bytes: int
    pools: Sequence[Callable[[], Awaitable[dict[str, Any]]]] = ()
    """What each pool's scheduler shows. Raises `CacheUnavailable` while it is away."""
    edges: Callable[[], Awaitable[list[dict[str, Any]]]] | None = None
    """What each node's edge holds and has done."""
    edge_places: Callable[[bytes], Awaitable[list[dict[str, Any]]]] | None = None
    """Is the answer of a key there, and why, on each node?"""


class AdminGate:
    """The outermost layer: who may call, and errors as answers."""

    def __init__(self, services: AdminServices, router: ASGIApp) -> None:
        self._services = services
        self._router = router

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or refuse to."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000})
            return
        sending = Begun(send)
        try:
            self._admit(dict(scope["headers"]))
            await self._router(scope, receive, sending)
        except CacheUnavailable as error:
            await Reply(503, JSON, native_body(error)).send(send)
        except RayllamaError as error:
            await failure(error, scope["path"]).send(send)
        except ClientGone:
            return
        except Exception:  # the last resort: whatever it is, the caller gets an answer
            log.exception("unforeseen: %s %s", scope["method"], scope["path"])
            if sending.has_begun:
                raise
            await failure(Unforeseen("internal error; the log has more"), "").send(send)

    def _admit(self, headers: Mapping[bytes, bytes]) -> None:
        """Raises `Forbidden` or `Unauthorized`."""
        host, origin = headers.get(b"host", b""), headers.get(b"origin")
        if not self._services.hosts.allows(host):
            raise Forbidden("the Host header names another machine than this one")
        if origin is not None and origin not in (b"http://" + host, b"https://" + host):
            raise Forbidden("pages of other origins may not call this")
        if not self._services.directory.identify(headers).admin:
            raise Forbidden("this key is not an admin's: see `auth.keys[].admin`")


class ShowStats:
    """`GET /admin/cache/stats`: what each shard holds and has done, the sum of it, and what the
    requests of all ingresses came to (`serve.web.requests`)."""

    def __init__(self, services: AdminServices) -> None:
        self._services = services

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        """Ask every shard."""
        told = await self._services.answers.shards.stats()
        shards = [structs.asdict(stats) for stats in told]
        for shard in shards:
            del shard["id"], shard["counted"]
            shard["tenants"] = {
                tenant: {"entries": entries, "held_bytes": held_bytes}
                for tenant, (entries, held_bytes) in shard["tenants"].items()
            }
        requests = requests_of([row for stats in told for row in stats.counted])
        edges = await self._services.edges() if self._services.edges else []
        told_all = {"total": _sum(shards), "shards": shards, "requests": requests, "edge": edges}
        await say(send, told_all)


class ShowFleet:
    """`GET /admin/fleet`: each pool, its replicas, and what they have loaded."""

    def __init__(self, services: AdminServices) -> None:
        self._services = services

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        """Ask every scheduler."""
        await say(send, {"pools": [await pool() for pool in self._services.pools]})


def _sum(shards: list[dict[str, Any]]) -> dict[str, Any]:
    """Counts added up, by name where they are kept by name.

    Every shard has the same replicas and ingresses: these are not to be added up. That the cache
    is paused is known to the first shard alone.
    """
    total: dict[str, Any] = _added(shards)
    for name in ("replicas", "subscribers", "is_paused"):
        total[name] = max(shard[name] for shard in shards)
    return total


def _added(values: list[Any]) -> Any:
    if isinstance(values[0], dict):
        names = dict.fromkeys(name for value in values for name in value)
        return {name: _added([value[name] for value in values if name in value]) for name in names}
    return sum(values)


class ExplainBody(Struct, frozen=True, forbid_unknown_fields=True):
    """A request to be explained. `body`: as it would be sent to `path`, to the letter."""

    path: str
    body: msgspec.Raw
    headers: dict[str, str] = {}
    tenant: str = "default"


class Explain:
    """`POST /admin/cache/explain`: what would become of a request, and why. Nothing is started."""

    def __init__(
        self, services: AdminServices, dialects: Mapping[str, Callable[[Exchange], Asked]]
    ) -> None:
        self._services = services
        self._dialects = dialects

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Resolve it as the ingress would, and look."""
        given = await read(self._services, scope, receive, ExplainBody)
        ask = self._dialects.get(given.path)
        if ask is None:
            raise BadRequest(f"path: not one of {', '.join(sorted(self._dialects))}")
        exchange = Exchange(given.path, {}, "", receive, send)
        exchange.body = bytes(given.body)
        asked = ask(exchange)
        headers = {name.lower(): value for name, value in given.headers.items()}
        asking = Asking(
            asked.route,
            asked.meaning,
            asked.model,
            given.tenant,
            headers.get("cache-control", ""),
            headers.get("pragma", ""),
        )
        services = self._services
        told = structs.asdict(await explain(services.answers, asking, services.now))
        if told["key"] and services.edge_places:
            told["edge"] = await services.edge_places(bytes.fromhex(told["key"]))
        await say(send, told)


class Pause:
    """`POST /admin/cache/pause` and `resume`: nothing is read from the cache or kept; or is again.

    The answer comes when every ingress does so. What runs already and is shared goes on.
    """

    def __init__(self, services: AdminServices, *, is_paused: bool) -> None:
        self._services = services
        self._is_paused = is_paused

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        """Have the ingresses told."""
        await self._services.answers.shards.pause(is_paused=self._is_paused)
        log.info("the cache is %s", "paused" if self._is_paused else "in use again")
        await say(send, {"is_paused": self._is_paused})


class PurgeBody(Struct, frozen=True, forbid_unknown_fields=True):
    """Which entries: those that fit all that is said; if nothing is, all. `key`: in hex."""

    model: str = ""
    tenant: str = ""
    key: str = ""
    older_than_s: Annotated[float, Meta(ge=0)] = 0.0
    dry_run: bool = True


class Purge:
    """`POST /admin/cache/purge`: drop entries everywhere, or by default tell how many it would be.

    The answer comes when no ingress serves any of them any more.
    """

    def __init__(self, services: AdminServices) -> None:
        self._services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Have every shard do it."""
        given = await read(self._services, scope, receive, PurgeBody)
        purged = await self._services.answers.shards.purge(
            model=canonical(given.model) if given.model else "",
            tenant=given.tenant,
            key=_key(given.key),
            older_than_s=given.older_than_s,
            dry_run=given.dry_run,
        )
        if not given.dry_run:
            log.info(
                "purged %d entries: model=%r tenant=%r key=%s older_than_s=%g",
                purged.entries,
                given.model[:200],
                given.tenant[:200],
                given.key,
                given.older_than_s,
            )
        told = {"entries": purged.entries, "held_bytes": purged.held_bytes}
        await say(send, {**told, "dry_run": given.dry_run})


def _key(text: str) -> bytes:
    """A key as `explain` and `Cache-Status` tell it. Raises `BadRequest`."""
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b"?"
    if text and len(key) != KEY_BYTES:
        raise BadRequest(f"key: not {2 * KEY_BYTES} hex digits")
    return key


async def read(services: AdminServices, scope: Scope, receive: Receive, kind: type[_T]) -> _T:
    """The body as a `kind`. Raises `BadRequest`."""
    body = await read_body(receive, dict(scope["headers"]), services.max_body_bytes)
    try:
        return msgspec.json.decode(body or b"{}", type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(str(error)) from error


async def say(send: Send, answer: object) -> None:
    """Answer with JSON."""
    await Reply(200, JSON, msgspec.json.encode(answer) + b"\n").send(send)
