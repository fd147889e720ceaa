"""What all members say together: `/api/tags`, `/api/ps`, `/api/show`, `/api/version`.

While no replica runs, the version and the list of models are those that were told last, and nothing
is loaded: who only looks wakes nobody.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec
from starlette.types import Receive, Scope, Send

from serve.errors import BadRequest, CloudDisabled, EngineRefused, NotFound
from serve.ports import Member
from serve.web.asking import Ask
from serve.web.body import read_body
from serve.web.reply import Reply
from serve.web.services import Services
from serve.wire import openai
from serve.wire.frames import error_text
from serve.wire.names import canonical, is_cloud

_JSON = b"application/json; charset=utf-8"
_NOTHING = b'{"models":[]}'


class _Listing(msgspec.Struct):
    models: list[msgspec.Raw] | None = None


class _Row(msgspec.Struct):
    name: str = ""
    modified_at: str = ""
    expires_at: str = ""


_listing = msgspec.json.Decoder(_Listing).decode
_row = msgspec.json.Decoder(_Row).decode
Rows = list[tuple[Member, _Row, bytes]]


class Merged:
    """`GET` of a listing: asked of every store (or of every member), and put together."""

    def __init__(
        self,
        services: Services,
        path: str,
        merge: Callable[[Services, list[tuple[Member, bytes]]], bytes],
        *,
        of_stores: bool,
        asleep: bytes | None = None,
    ) -> None:
        self._services = services
        self._path = path
        self._merge = merge
        self._of_stores = of_stores
        self._told = asleep

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """Ask, and answer."""
        self._services.directory.identify(dict(scope["headers"]))
        reply = await self.reply(scope["request_id"])
        await reply.send(send, head=scope["method"] == "HEAD")

    async def reply(self, request_id: str) -> Reply:
        """The answer: of those who give one; an error only if nobody does."""
        services = self._services
        if self._told is not None and services.fleet is not None and not services.fleet.members():
            return Reply(200, _JSON, self._told)
        members = services.stores() if self._of_stores else services.members()
        ask = Ask(services, "GET", self._path, b"", request_id, deadline_s=services.deadline_s)
        replies = await ask.each(members)
        good = [
            (member, reply.body)
            for member, reply in zip(members, replies, strict=True)
            if reply.status == 200
        ]
        if not good:
            return replies[0]
        body = good[0][1] if len(members) == 1 else self._merge(services, good)
        if self._told != _NOTHING:
            self._told = body  # for when nobody is there; nothing is loaded then, in any case
        return Reply(200, _JSON, body)


class Models:
    """`GET /v1/models` and `/v1/models/{name}`, told from the list of tags."""

    def __init__(self, services: Services, tags: Merged) -> None:
        self._services = services
        self._tags = tags

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """Say the tags as OpenAI does."""
        self._services.directory.identify(dict(scope["headers"]))
        reply = await self._tags.reply(scope["request_id"])
        if reply.status != 200:
            raise EngineRefused(reply.status, error_text(reply.body))
        name = scope["path_params"].get("name")
        body = openai.models_list(reply.body) if name is None else _one(reply.body, name)
        await Reply(200, b"application/json", body).send(send)


class Show:
    """`POST /api/show`: of the first store that has the model.

    Ollama names a model otherwise to some clients, so the engine hears which one asks.
    """

    def __init__(self, services: Services) -> None:
        self._services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Ask one store after the other."""
        services = self._services
        headers = dict(scope["headers"])
        services.directory.identify(headers)
        body = await read_body(receive, headers, services.max_body_bytes)
        id_ = scope["request_id"]
        ask = Ask(services, "POST", "/api/show", body, id_, deadline_s=services.deadline_s)
        ask.told_of(_agent(headers))
        reply: Reply | None = None
        for member in services.stores():
            reply = await ask.whole(member)
            if reply.status != 404:
                break
        if reply is not None:
            await reply.send(send)


def _agent(headers: Mapping[bytes, bytes]) -> str:
    """Who asks, or "" where that is nothing that can be said in a header again."""
    agent = headers.get(b"user-agent", b"").decode("latin-1")
    return agent if agent.isprintable() else ""


def _one(tags: bytes, name: str) -> bytes:
    try:
        return openai.model_one(tags, name)
    except (NotFound, BadRequest) as error:  # Ollama's model side says it, in that form
        if isinstance(error, NotFound) and is_cloud(name):
            raise CloudDisabled("remote model details are unavailable") from None
        raise EngineRefused(error.status, str(error)) from error


def tags(services: Services) -> Merged:
    """`/api/tags`: the models of all stores."""
    return Merged(services, "/api/tags", _tags, of_stores=True)


def ps(services: Services) -> Merged:
    """`/api/ps`: what is loaded, a row for each model."""
    return Merged(services, "/api/ps", _ps, of_stores=False, asleep=_NOTHING)


def _tags(services: Services, told: list[tuple[Member, bytes]]) -> bytes:
    """A row for each name, newest first; only what its member's pool is asked for."""
    rows: dict[str, tuple[_Row, bytes]] = {}
    for member, row, raw in _rows(told):
        if services.lists(member, _canonical(row.name)):
            rows.setdefault(row.name, (row, raw))
    ordered = sorted(rows.values(), key=lambda each: each[0].modified_at, reverse=True)
    return _body(raw for _, raw in ordered)


def _ps(_services: Services, told: list[tuple[Member, bytes]]) -> bytes:
    """A row for each name, the one that expires last, and how many replicas have it loaded."""
    found: dict[str, list[tuple[_Row, bytes]]] = {}
    for _, row, raw in _rows(told):
        found.setdefault(row.name, []).append((row, raw))
    bodies = []
    for rows in found.values():
        last: dict[str, Any] = msgspec.json.decode(
            max(rows, key=lambda each: each[0].expires_at)[1]
        )
        bodies.append(msgspec.json.encode(last | {"replicas": len(rows)}))
    return _body(bodies)


def _rows(told: list[tuple[Member, bytes]]) -> Iterable[tuple[Member, _Row, bytes]]:
    for member, body in told:
        for raw in _listing(body).models or ():
            yield member, _row(raw), bytes(raw)


def _body(rows: Iterable[bytes]) -> bytes:
    return b'{"models":[' + b",".join(rows) + b"]}"


def _canonical(name: str) -> str:
    try:
        return canonical(name)
    except BadRequest:
        return name
