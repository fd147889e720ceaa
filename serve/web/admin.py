"""The admin API: an application of its own, on a port of its own, that no client is routed to.

Who may call: whoever holds a key with `admin: true`; where no keys are configured, whoever reaches
the port, which then is on loopback (`serve.settings`). As with the ingress a loopback listener
answers only to names of this machine (`serve.web.origin`); pages of other origins may not call at
all, whatever `ingress.origins` says.

Errors are `{"error": text}`; 503 where a shard doesn't answer.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec
from msgspec import Struct, structs
from starlette.types import ASGIApp, Receive, Scope, Send

from serve.cache.explain import Asking, explain
from serve.cache.service import AnswerCache
from serve.errors import BadRequest, CacheUnavailable, Forbidden, RayllamaError
from serve.ports import Clock
from serve.web.body import ClientGone, read_body
from serve.web.dialects import Asked
from serve.web.exchange import Exchange
from serve.web.failure import failure
from serve.web.identity import Directory
from serve.web.origin import Hosts
from serve.web.reply import Reply
from serve.wire.errors import native_body

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
        try:
            self._admit(dict(scope["headers"]))
            await self._router(scope, receive, send)
        except CacheUnavailable as error:
            await Reply(503, JSON, native_body(error)).send(send)
        except RayllamaError as error:
            await failure(error, scope["path"]).send(send)
        except ClientGone:
            return

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
    """`GET /admin/cache/stats`: what each shard holds and has done, and the sum of it."""

    def __init__(self, services: AdminServices) -> None:
        self._services = services

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        """Ask every shard."""
        shards = [structs.asdict(stats) for stats in await self._services.answers.shards.stats()]
        for shard in shards:
            del shard["id"]
        await _say(send, {"total": _sum(shards), "shards": shards})


def _sum(shards: list[dict[str, Any]]) -> dict[str, Any]:
    """Numbers added up; counts by name added up by name. What is no count is left out."""
    total: dict[str, Any] = {}
    for name, first in shards[0].items():
        values = [shard[name] for shard in shards]
        if isinstance(first, int | float):
            # Every shard has the same replicas and ingresses: these are not to be added up.
            total[name] = max(values) if name in ("replicas", "subscribers") else sum(values)
        elif all(isinstance(count, int) for value in values for count in value.values()):
            total[name] = dict(sum(map(Counter, values), Counter[str]()))
    return total


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
        given = await _read(self._services, scope, receive, ExplainBody)
        ask = self._dialects.get(given.path)
        if ask is None:
            raise BadRequest(f"path: not one of {', '.join(sorted(self._dialects))}")
        exchange = Exchange(given.path, {}, "", receive, send)
        exchange.body = bytes(given.body)
        asked = ask(exchange)
        headers = {name.lower(): value for name, value in given.headers.items()}
        asking = Asking(
            asked.route,
            asked.native,
            asked.model,
            given.tenant,
            headers.get("cache-control", ""),
            headers.get("pragma", ""),
        )
        services = self._services
        await _say(send, structs.asdict(await explain(services.answers, asking, services.now)))


async def _read(services: AdminServices, scope: Scope, receive: Receive, kind: type[_T]) -> _T:
    """The body as a `kind`. Raises `BadRequest`."""
    body = await read_body(receive, dict(scope["headers"]), services.max_body_bytes)
    try:
        return msgspec.json.decode(body or b"{}", type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BadRequest(str(error)) from error


async def _say(send: Send, answer: object) -> None:
    await Reply(200, JSON, msgspec.json.encode(answer) + b"\n").send(send)
