"""Changes of models, on every model store of the fleet: pull, push, create, copy, delete.

A change is made on one member of each store (those of the pool that serves the model), and is
acknowledged when no ingress serves an answer from before it: the names' entries are purged, and all
members tell the shards at once what their engines list now. If the shards are away, the keys alone
protect (each holds its model's digest), and it is said in the log.
"""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

import msgspec
from starlette.types import Receive, Scope, Send

from serve.errors import BadRequest, CacheUnavailable, Forbidden, RayllamaError
from serve.ports import Head, Member
from serve.web.asking import Ask
from serve.web.body import ClientGone, read_body, until_gone
from serve.web.progress import Line, Progress, Store
from serve.web.reply import Reply, end, part, start
from serve.web.services import ANY, Services
from serve.wire.errors import native_body
from serve.wire.frames import error_text
from serve.wire.names import canonical

log = logging.getLogger("rayllama.web")

_JSON = b"application/json; charset=utf-8"
_NDJSON = b"application/x-ndjson"
_UNLOAD_S = 30.0
Names = Callable[[dict[str, Any]], list[str]]
"""Which names a request changes, as it spells them; the first decides whose stores are meant."""


def _target(body: dict[str, Any]) -> list[str]:
    return [str(body.get("model") or body.get("name") or "")]


def _destination(body: dict[str, Any]) -> list[str]:
    return [str(body.get("source") or ""), str(body.get("destination") or "")]


def admin_only(services: Services, headers: dict[bytes, bytes]) -> None:
    """Raises `Forbidden` or `Unauthorized`."""
    if not services.directory.identify(headers).admin:
        raise Forbidden("this key may not change models: it is not an admin's")


class Change:
    """A change that each store answers at once: copy and delete.

    Stores that lack the model are no failure as long as one has it.
    """

    def __init__(self, services: Services, method: str, path: str) -> None:
        self._services = services
        self._method = method
        self._path = path
        self._names: Names = _destination if path == "/api/copy" else _target

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Make it everywhere, then answer."""
        services = self._services
        headers = dict(scope["headers"])
        admin_only(services, headers)
        body = await read_body(receive, headers, services.max_body_bytes)
        names = self._names(understood(body))
        if self._path == "/api/delete":
            await _unload(services, names[0], scope["request_id"])
        ask = Ask(services, self._method, self._path, body, scope["request_id"])
        stores = services.stores()
        replies = await ask.each(stores)
        if any(reply.status == 200 for reply in replies):
            await changed(services, names, scope["request_id"])
        await _outcome(stores, replies, self._path.removeprefix("/api/")).send(send)


def _outcome(stores: list[Member], replies: list[Reply], doing: str) -> Reply:
    """What is said of all: the first failure, unless it is only that the model isn't there."""
    good = [reply for reply in replies if reply.status == 200]
    failed = [reply for reply in replies if reply.status not in (200, 404)]
    if not failed:
        return (good or replies)[0]
    if not good or len(stores) == 1:
        return failed[0]
    faults = "; ".join(
        f"{store.name}: {error_text(reply.body)}"
        for store, reply in zip(stores, replies, strict=True)
        if reply.status not in (200, 404)
    )
    text = (
        f"{doing} was done on {len(good)} of {len(stores)} model stores and failed on others; the "
        f"same request again does the rest. {faults}"
    )
    return Reply(500, _JSON, json.dumps({"error": text}).encode())


class Stream:
    """A change that tells its progress: pull, create, push. `everywhere`: on all stores."""

    def __init__(self, services: Services, path: str, *, everywhere: bool = True) -> None:
        self._services = services
        self._path = path
        self._everywhere = everywhere

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Make it, and tell."""
        services = self._services
        headers = dict(scope["headers"])
        admin_only(services, headers)
        body = await read_body(receive, headers, services.max_body_bytes)
        asked = understood(body)
        name = _target(asked)[0]
        stores = services.stores(_canonical(name))
        if not self._everywhere:
            stores = [await self._who_has(stores, name, scope["request_id"])]
        running = _Running(services, self._path, body, scope["request_id"], stores, name)
        try:
            async with asyncio.TaskGroup() as group:
                watch = group.create_task(until_gone(receive))
                if asked.get("stream") is False:
                    await (await running.whole()).send(send)
                else:
                    await running.stream(send)
                watch.cancel()
        except* ClientGone:
            raise ClientGone from None

    async def _who_has(self, stores: list[Member], name: str, request_id: str) -> Member:
        """The first store with this model, or the first."""
        body = json.dumps({"model": name}).encode()
        ask = Ask(self._services, "POST", "/api/show", body, request_id)
        for store in stores if len(stores) > 1 else ():
            if (await ask.each([store]))[0].status == 200:
                return store
        return stores[0]


class _Running:
    """One such change under way."""

    def __init__(
        self,
        services: Services,
        path: str,
        body: bytes,
        request_id: str,
        stores: list[Member],
        name: str,
    ) -> None:
        self._services = services
        self._doing = path.removeprefix("/api/")
        self._ask = Ask(services, "POST", path, body, request_id)
        self._request_id = request_id
        self._members = stores
        self._name = name
        self._stores = [Store(member.name or "the store") for member in stores]
        self._lines: asyncio.Queue[tuple[Store, bytes | None]] = asyncio.Queue(64)
        self._heads: dict[Store, Head | Reply] = {}

    async def whole(self) -> Reply:
        """The one object that a client wants who wants no stream."""
        replies = await self._ask.each(self._members)
        for store, reply in zip(self._stores, replies, strict=True):
            if reply.status == 200:
                store.has_succeeded = store.is_over = True
            else:
                store.fail(error_text(reply.body))
        await self._acknowledge()
        bad = [reply for reply in replies if reply.status != 200]
        if not bad or len(bad) == len(replies):
            return replies[0]
        outcome = Progress(self._stores).outcome(self._doing)
        return Reply(500, _JSON, json.dumps(outcome).encode())

    async def stream(self, send: Send) -> None:
        """Line by line. If no store begins, the first refusal is the answer."""
        async with asyncio.TaskGroup() as group:
            readers = [
                group.create_task(self._read(store, member))
                for store, member in zip(self._stores, self._members, strict=True)
            ]
            try:
                async with aclosing(self._told()) as lines:
                    begun = False
                    async for line in lines:
                        if not begun:
                            begun = True
                            await start(send, 200, [(b"content-type", _NDJSON)])
                        await part(send, _dumped(line))
                if begun:
                    await end(send)
                else:
                    await self._refusal().send(send)
            finally:
                for reader in readers:
                    reader.cancel()

    async def _told(self) -> AsyncGenerator[Line, None]:
        """What there is to tell; nothing, if every store refused to begin."""
        progress, left = Progress(self._stores), len(self._stores)
        while left:
            store, raw = await self._lines.get()
            if raw is None:
                left -= 1
                if not store.is_over:
                    store.fail("the answer ended too soon")
                lines = progress.steps()
            else:
                lines = progress.take(store, raw)
            for line in lines:
                yield line
        if any(isinstance(head, Head) for head in self._heads.values()):
            await self._acknowledge()
            yield progress.outcome(self._doing)

    async def _read(self, store: Store, member: Member) -> None:
        """One store's answer into the queue, and its end."""
        try:
            async with aclosing(self._ask.lines(member)) as lines:
                head, body = None, b""
                async for line in lines:
                    if isinstance(line, Head):
                        head = line
                        if head.status == 200:
                            self._heads[store] = head
                    elif head is not None and head.status == 200:
                        await self._lines.put((store, line))
                    else:
                        body += line
            if head is not None and head.status != 200:
                self._refused(store, Reply(head.status, head.content_type.encode(), body))
        except RayllamaError as error:
            self._refused(store, Reply(error.status, _JSON, native_body(error)))
        await self._lines.put((store, None))

    def _refused(self, store: Store, reply: Reply) -> None:
        self._heads.setdefault(store, reply)
        store.fail(error_text(reply.body))

    def _refusal(self) -> Reply:
        return next(head for head in self._heads.values() if isinstance(head, Reply))

    async def _acknowledge(self) -> None:
        if self._doing != "push" and any(store.has_succeeded for store in self._stores):
            await changed(self._services, [self._name], self._request_id)


async def changed(services: Services, names: list[str], request_id: str) -> None:
    """Those names stand for something else now. Returns when no ingress serves what was before."""
    for name in names:
        model = _canonical(name)
        if model:
            try:
                await services.answers.shards.purge(
                    model=model, tenant="", key=b"", older_than_s=0, dry_run=False
                )
            except CacheUnavailable:
                log.warning("id=%s: a model changed while the cache was away", request_id)
    ask = Ask(services, "POST", "/rayllama/report", b"", request_id)
    await ask.each([member for member in services.members() if member is not ANY])


async def _unload(services: Services, name: str, request_id: str) -> None:
    """Have it unloaded by those members that would not notice that it is deleted."""
    members = services.members()
    if len(members) == 1:
        return
    body = json.dumps({"model": name, "keep_alive": 0}).encode()
    ask = Ask(services, "POST", "/api/generate", body, request_id, deadline_s=_UNLOAD_S)
    replies = await ask.each(members)
    embeds = [
        member
        for member, reply in zip(members, replies, strict=True)
        if reply.status == 400 and b"does not support generate" in reply.body
    ]
    body = json.dumps({"model": name, "input": [], "keep_alive": 0}).encode()
    await Ask(services, "POST", "/api/embed", body, request_id, deadline_s=_UNLOAD_S).each(embeds)


def understood(body: bytes) -> dict[str, Any]:
    """As much of a request as we need; what is wrong with it the engine says, in its own words."""
    try:
        decoded = msgspec.json.decode(body)
    except (ValueError, RecursionError):  # no JSON, no UTF-8, or nested too deeply
        return {}
    if not isinstance(decoded, dict):
        return {}
    return {str(key).lower(): value for key, value in decoded.items()}


def _canonical(name: str) -> str:
    try:
        return canonical(name.split("://", 1)[-1])
    except BadRequest:
        return ""


def _dumped(line: Line) -> bytes:
    return msgspec.json.encode(line) + b"\n"
