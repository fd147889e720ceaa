"""The whole route table. Nothing is routed elsewhere.

An unknown path, another verb and a path that only differs by slashes are answered as Ollama's
router (gin) does.
"""

import posixpath
from collections.abc import Sequence
from html import escape
from typing import Any
from urllib.parse import quote

from starlette.convertors import StringConvertor, register_url_convertor
from starlette.routing import BaseRoute, Match, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from serve.web import admin, bundles, manage, merged
from serve.web.account import Account
from serve.web.blobs import Blobs
from serve.web.catalogue import Passed
from serve.web.dialects import BY_PATH
from serve.web.infer import Infer
from serve.web.openapi import openapi
from serve.web.probes import Readyz, healthz, running
from serve.web.reply import Reply
from serve.web.services import Services
from serve.web.transcription import TRANSCRIPTIONS, Transcriptions
from serve.web.v1 import V1
from serve.wire.account import ACCOUNT

ASKED = {**BY_PATH, **V1}
"""How the requests to each inference route are understood."""

INFERENCE = frozenset({*ASKED, TRANSCRIPTIONS})

PACKED = frozenset({"/v1/chat/completions", *V1})
"""Where a body may come in zstd, as in Ollama."""

_READ = ("HEAD", "GET")
"""In the order in which Ollama's `Allow` names them."""

_KEPT_IN_PATHS = "/-._~$&+,:;=@"
"""What Go leaves as it is in the path of a URL."""


class _Model(StringConvertor):
    """A model's name, which may have slashes, but not at its ends."""

    regex = "[^/](?:(?s:.*)[^/])?"


register_url_convertor("model", _Model())


def table(services: Services) -> list[BaseRoute]:
    """Path, handler, verbs."""

    def passed(path: str) -> Passed:
        return Passed(services, path)

    listed = merged.tags(services)

    def infer(path: str) -> Infer:
        return Infer(services, ASKED[path])

    return [
        Verbs("/", running, _READ),
        Verbs("/healthz", healthz, _READ),
        Verbs("/readyz", Readyz(services), _READ),
        Verbs("/openapi.json", openapi, _READ),
        Verbs("/api/version", passed("/api/version"), _READ),
        Verbs("/api/tags", listed, _READ),
        Verbs("/api/ps", merged.ps(services), ("GET",)),
        Verbs("/api/show", merged.Show(services), ("POST",)),
        Verbs("/api/pull", manage.Stream(services, "/api/pull"), ("POST",)),
        Verbs("/api/push", manage.Stream(services, "/api/push", everywhere=False), ("POST",)),
        Verbs("/api/create", manage.Stream(services, "/api/create"), ("POST",)),
        Verbs("/api/copy", manage.Change(services, "POST", "/api/copy"), ("POST",)),
        Verbs("/api/delete", manage.Change(services, "DELETE", "/api/delete"), ("DELETE",)),
        Verbs("/api/blobs/{digest}", Blobs(services), ("HEAD", "POST")),
        Verbs("/api/generate", infer("/api/generate"), ("POST",)),
        Verbs("/api/chat", infer("/api/chat"), ("POST",)),
        Verbs("/api/embed", infer("/api/embed"), ("POST",)),
        Verbs("/api/embeddings", infer("/api/embeddings"), ("POST",)),
        Verbs("/v1/chat/completions", infer("/v1/chat/completions"), ("POST",)),
        *(Verbs(path, infer(path), ("POST",)) for path in V1),
        Verbs(TRANSCRIPTIONS, Transcriptions(services), ("POST",)),
        *(Verbs(path, Account(services, path), (verb,)) for verb, path in ACCOUNT),
        Verbs("/v1/models", merged.Models(services, listed), ("GET",)),
        Verbs("/v1/models/{name:model}", merged.Models(services, listed), ("GET",)),
    ]


def admin_table(services: admin.AdminServices) -> list[BaseRoute]:
    """The routes of the admin API, which has a port of its own."""
    return [
        Verbs("/admin/fleet", admin.ShowFleet(services), ("GET",)),
        Verbs("/admin/cache/stats", admin.ShowStats(services), ("GET",)),
        Verbs("/admin/cache/explain", admin.Explain(services, ASKED), ("POST",)),
        Verbs("/admin/cache/purge", admin.Purge(services), ("POST",)),
        Verbs("/admin/cache/pause", admin.Pause(services, is_paused=True), ("POST",)),
        Verbs("/admin/cache/resume", admin.Pause(services, is_paused=False), ("POST",)),
        Verbs("/admin/cache/export", bundles.ExportEntries(services), ("POST",)),
        Verbs("/admin/cache/import", bundles.ImportEntries(services), ("POST",)),
    ]


class Verbs(Route):
    """A route with exactly these verbs, whose 405 is Ollama's."""

    def __init__(self, path: str, endpoint: ASGIApp, verbs: Sequence[str]) -> None:
        super().__init__(path, _Application(endpoint), methods=list(verbs))
        self.methods = set(verbs)
        self.allow = ", ".join(verbs).encode()

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Call the endpoint, or refuse the verb."""
        if scope["method"] in (self.methods or ()):
            await self.app(scope, receive, send)
            return
        reply = Reply(
            405, b"text/plain", b"405 method not allowed", headers=[(b"allow", self.allow)]
        )
        await reply.send(send, head=scope["method"] == "HEAD")


def other_verbs(routes: Sequence[BaseRoute], scope: Scope) -> bytes:
    """The verbs of the route at this path that hasn't this verb; none if there is no such route."""
    for route in routes:
        if isinstance(route, Verbs) and route.matches(scope)[0] is Match.PARTIAL:
            return route.allow
    return b""


class _Application:
    """Keeps Starlette from taking a coroutine function for a request handler."""

    def __init__(self, application: ASGIApp) -> None:
        self._application = application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._application(scope, receive, send)


class Fallback:
    """What no route matches: a redirect where Go would send one, else 404."""

    def __init__(self, routes: Sequence[BaseRoute]) -> None:
        self._routes = routes

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """Answer it as Go's router, then gin, would."""
        target, status = self._elsewhere(scope)
        if target is None:
            reply = Reply(404, b"text/plain", b"404 page not found")
            await reply.send(send, head=scope["method"] == "HEAD")
            return
        target = quote(target, safe=_KEPT_IN_PATHS)
        if scope["query_string"]:
            target += "?" + scope["query_string"].decode("latin-1")
        location = [(b"location", target.encode("latin-1"))]
        if scope["method"] not in _READ:
            await Reply(status, b"", b"", headers=location).send(send)
            return
        words = "Moved Permanently" if status == 301 else "Temporary Redirect"
        page = f'<a href="{escape(target)}">{words}</a>.\n\n'.encode()
        reply = Reply(status, b"text/html; charset=utf-8", page, headers=location)
        await reply.send(send, head=scope["method"] == "HEAD")

    def _elsewhere(self, scope: Scope) -> tuple[str | None, int]:
        """The clean form of a path that isn't clean, whether or not anything is there; else the
        route for this verb that lacks only the slash at the end."""
        path: str = scope["path"]
        escaped = scope.get("raw_path", path.encode()).decode("latin-1")  # what Go cleans
        clean = _clean(escaped)
        if escaped != clean and escaped.startswith("/"):
            return clean, 307
        bare = path.removesuffix("/")
        if bare != path and self._answers(scope, bare):
            return bare, 301 if scope["method"] == "GET" else 307
        return None, 404

    def _answers(self, scope: Scope, path: str) -> bool:
        probe: dict[str, Any] = {**scope, "path": path, "root_path": ""}
        return any(route.matches(probe)[0] is Match.FULL for route in self._routes)


def _clean(path: str) -> str:
    """The path without empty and dotted parts; a slash at its end stays."""
    clean = "/" + posixpath.normpath("/" + path).lstrip("/")
    return clean + "/" if path.endswith("/") and clean != "/" else clean
