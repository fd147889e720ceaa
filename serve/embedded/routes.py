"""The engine's routes, and what Go's routers do around them: 404, 405 and redirects."""

import contextlib
import posixpath
from collections.abc import Awaitable, Callable, Mapping
from urllib.parse import quote

from serve.embedded import OLLAMA_VERSION
from serve.embedded.chat import chat
from serve.embedded.creating import create
from serve.embedded.embed import embed, embeddings
from serve.embedded.engine import Engine, Request
from serve.embedded.generate import generate
from serve.embedded.loaded import Loaded
from serve.embedded.managing import copy, delete, head_blob, post_blob
from serve.embedded.pulling import pull
from serve.embedded.pushing import push
from serve.embedded.replies import JSON, Reply, Whole, json_reply
from serve.embedded.show import ps, show, tags
from serve.errors import EngineError
from serve.wire.account import ACCOUNT, told

Handler = Callable[[Engine, Request], Awaitable[Reply]]

STATUS_PATH = "/-/status"
"""Not Ollama's: the scheduler's counters and what is loaded, for tests and for people who look."""


async def root(_: Engine, __: Request) -> Reply:
    """The sign of life that `ollama` looks for."""
    return Whole(200, b"Ollama is running", b"text/plain; charset=utf-8")


async def version(_: Engine, __: Request) -> Reply:
    """The version of Ollama that this engine is compatible with."""
    return json_reply({"version": OLLAMA_VERSION})


async def status(engine: Engine, _: Request) -> Reply:
    """Counters, requests that wait for a load, and for every loaded model its process, its uses,
    and how many of its slots compute right now."""
    scheduler = engine.scheduler
    return json_reply(
        {
            "counters": scheduler.counters.as_dict(),
            "waiting": scheduler.waiting,
            "loaded": [await _state(one) for one in scheduler.loaded],
        }
    )


async def _state(one: Loaded) -> dict[str, str | int]:
    busy = 0
    with contextlib.suppress(EngineError):
        slots = await one.process.llama.ask("/slots")
        busy = sum(bool(slot["is_processing"]) for slot in slots)
    return {
        "name": one.model.name,
        "pid": one.process.pid,
        "uses": one.uses,
        "slots": one.launch.slots,
        "busy": busy,
        "context": one.launch.context,
    }


def _account(method: str, path: str) -> Handler:
    """A route of accounts, the cloud or experiments: this engine has none of them."""

    async def answer(_: Engine, request: Request) -> Reply:
        answer = told(method, path, request.body)
        return Whole(answer.status, answer.body, JSON)

    return answer


_BLOB = "/api/blobs/"
_BLOB_VERBS: Mapping[str, Handler] = {"POST": post_blob, "HEAD": head_blob}
ROUTES: Mapping[str, Mapping[str, Handler]] = {
    "/": {"HEAD": root, "GET": root},
    "/api/version": {"HEAD": version, "GET": version},
    "/api/tags": {"HEAD": tags, "GET": tags},
    "/api/ps": {"GET": ps},
    "/api/show": {"POST": show},
    "/api/pull": {"POST": pull},
    "/api/push": {"POST": push},
    "/api/create": {"POST": create},
    "/api/copy": {"POST": copy},
    "/api/delete": {"DELETE": delete},
    "/api/generate": {"POST": generate},
    "/api/chat": {"POST": chat},
    "/api/embed": {"POST": embed},
    "/api/embeddings": {"POST": embeddings},
    STATUS_PATH: {"GET": status},
    **{path: {method: _account(method, path)} for method, path in ACCOUNT},
}
_KEY = "/api/user/keys/{key}"


def verbs_of(path: str) -> Mapping[str, Handler]:
    """What may be asked there, by verb; nothing where there is no route."""
    digest = path.removeprefix(_BLOB) if path.startswith(_BLOB) else ""
    if digest and "/" not in digest:
        return _BLOB_VERBS
    start, _, _ = _KEY.partition("{")
    if path.startswith(start) and "/" not in path.removeprefix(start) and path != start:
        return ROUTES[_KEY]
    return ROUTES.get(path, {})


def is_upload(method: str, path: str) -> bool:
    """Does the body come in a size that memory may not hold?"""
    return method == "POST" and verbs_of(path) is _BLOB_VERBS


def redirect(method: str, path: str, query: str) -> Whole | None:
    """Where Go sends a path that isn't clean, or that only differs from a route by a slash."""
    clean = _clean(path)
    if clean != path:
        return _moved(method, 307, "Temporary Redirect", clean, query)
    other = path[:-1] if path.endswith("/") else path + "/"
    if path not in ROUTES and method in ROUTES.get(other, ()):
        if method == "GET":
            return _moved(method, 301, "Moved Permanently", other, query)
        return _moved(method, 307, "Temporary Redirect", other, query)
    return None


def not_found() -> Whole:
    """For a path that is no route."""
    return Whole(404, b"404 page not found", b"text/plain")


def not_allowed() -> Whole:
    """For a route's path with another verb; its `Allow` is added to whatever is answered there."""
    return Whole(405, b"405 method not allowed", b"text/plain")


def _clean(path: str) -> str:
    if not path.startswith("/"):
        return "/" + path
    clean = posixpath.normpath(path)
    clean = "/" + clean.lstrip("/")
    return clean + "/" if path.endswith("/") and clean != "/" else clean


def _moved(method: str, code: int, words: str, path: str, query: str) -> Whole:
    location = quote(path) + (f"?{query}" if query else "")
    headers = ((b"location", location.encode()),)
    if method == "GET":
        body = f'<a href="{location}">{words}</a>.\n\n'.encode()
        return Whole(code, body, b"text/html; charset=utf-8", headers)
    return Whole(code, headers=headers)
