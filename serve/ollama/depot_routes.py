"""What replicas say to each other of their model stores: `/rayllama/…`, which no client can reach.

    GET /rayllama/blobs/DIGEST                  200 {"size": n}, 404
    GET /rayllama/blobs/DIGEST?at=N&size=N      200 the bytes, at most 4 MiB
    PUT /rayllama/blobs/DIGEST?at=N&last=0|1    see `serve.ollama.growing.Uploads.put`
    GET /rayllama/manifests                     200 {"models": [{"name", "digest"}], "is_settled"}
    GET /rayllama/manifests/NAME                200 the bytes, 404
    PUT /rayllama/manifests/NAME                201; 409 with `missing`: the digests it lacks
    GET /rayllama/fetching                      200 [{"name", "status", "total", "completed"}]

Answered beside the engine: no gate, and no wait for it. Where the engine isn't ours (`engine:
attach`) its store isn't either: 501.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

from serve.errors import BadRequest, ClientError
from serve.ollama.depot import MANIFEST_BYTES, PIECE, Depot
from serve.ollama.growing import FULL, Uploads
from serve.ollama.progress import Row, rows_of
from serve.ports import Call, Frame, Head, Tail

PREFIX = "/rayllama/"
BLOBS, MANIFESTS, FETCHING = f"{PREFIX}blobs/", f"{PREFIX}manifests", f"{PREFIX}fetching"
_JSON, _BYTES = "application/json; charset=utf-8", "application/octet-stream"
_log = logging.getLogger(__name__)
Answer = tuple[int, str, bytes]


class Listed(msgspec.Struct, frozen=True):
    """One model of a store: its full name, and the sha256 of its manifest in hex, as in a tag."""

    name: str
    digest: str


class Listing(msgspec.Struct, frozen=True):
    """The answer of `GET /rayllama/manifests`.

    `is_settled`: this replica has what it would take from others, so what it lacks it lacks.
    """

    models: list[Listed]
    is_settled: bool = True


class DepotRoutes:
    """Answers those calls. `is_settled` is asked at each listing."""

    def __init__(
        self,
        depot: Depot | None,
        rows: Callable[[], Sequence[Row]] = tuple,
        is_settled: Callable[[], bool] = lambda: True,
    ) -> None:
        self._depot = depot
        self._uploads = None if depot is None else Uploads(depot)
        self._rows = rows
        self._is_settled = is_settled

    async def stream(self, call: Call) -> AsyncGenerator[Frame, None]:
        """The answer: a head, one frame of bytes, and a tail where it is a good one."""
        status, content_type, body = await asyncio.to_thread(self._answer, call)
        yield Head(status, content_type)
        if body:
            yield body
        if status < 300:
            yield Tail("", "", "")

    def _answer(self, call: Call) -> Answer:
        url = urlsplit(call.path)
        try:
            query = dict(parse_qsl(url.query, keep_blank_values=True))
            return self._routed(call.method, unquote(url.path), query, call.body)
        except ClientError as error:
            return _error(error.status, str(error))
        except OSError as error:
            _log.warning("the model store: %s %s: %s", call.method, url.path, error)
            return _error(507 if error.errno in FULL else 500, error.strerror or "disk error")

    def _routed(self, verb: str, path: str, query: Mapping[str, str], body: bytes) -> Answer:
        depot = self._depot
        if path == FETCHING and verb == "GET":
            return _json(200, list(rows_of(depot, self._rows())))
        if depot is None or self._uploads is None:
            return _error(501, "an attached engine's model store is not ours")
        if path == MANIFESTS and verb == "GET":
            models = [Listed(name, digest) for name, digest in depot.listing().items()]
            return _json(200, Listing(models, self._is_settled()))
        return self._stored(depot, self._uploads, (verb, path, body), query)

    @staticmethod
    def _stored(
        depot: Depot, uploads: Uploads, asked: tuple[str, str, bytes], query: Mapping[str, str]
    ) -> Answer:
        verb, path, body = asked
        kind, _, name = path.removeprefix(PREFIX).partition("/")
        match verb, kind:
            case "GET", "blobs":
                return _blob(depot, name, query)
            case "PUT", "blobs":
                return _put(uploads, name, query, body)
            case "GET", "manifests":
                return 200, _JSON, depot.manifest(name)
            case "PUT", "manifests":
                return _manifest(depot, name, body)
        return _error(404, "no such path")


def _put(uploads: Uploads, digest: str, query: Mapping[str, str], body: bytes) -> Answer:
    at, is_last = _number(query, "at", 0), query.get("last", "0") == "1"
    status, trouble = uploads.put(digest, at, body, is_last=is_last)
    if status == 409:
        return _json(status, {"error": trouble, "at": uploads.where(digest)})
    return _error(status, trouble) if trouble else _json(status, {})


def _blob(depot: Depot, digest: str, query: Mapping[str, str]) -> Answer:
    path = depot.blob(digest)
    if path is None:
        return _error(404, "no such blob")
    total = path.stat().st_size
    if not query:
        return _json(200, {"size": total})
    at, size = _number(query, "at", 0), _number(query, "size", PIECE)
    if size > PIECE or at > total:
        return _error(416, f"of {total} bytes, at most {PIECE} at once")
    return 200, _BYTES, depot.read(digest, at, size)


def _manifest(depot: Depot, name: str, body: bytes) -> Answer:
    if len(body) > MANIFEST_BYTES:
        return _error(413, "a manifest of more than a MiB")
    missing = [layer.digest for layer in depot.put_manifest(name, body)]
    if missing:
        text = f"{len(missing)} blobs of this model are missing"
        return _json(409, {"error": text, "missing": missing})
    return _json(201, {})


def _number(query: Mapping[str, str], name: str, default: int) -> int:
    text = query.get(name, str(default))
    if not (text.isascii() and text.isdecimal() and len(text) < 19):
        raise BadRequest(f"{name}: not a number of bytes")
    return int(text)


def _json(status: int, value: object) -> Answer:
    return status, _JSON, msgspec.json.encode(value)


def _error(status: int, text: str) -> Answer:
    return _json(status, {"error": text})
