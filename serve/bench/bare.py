"""The least that answers from a cache in Python: what the edge is measured against.

A raw ASGI application under uvicorn with the ingress's own near cache and recognition, and nothing
else: no Serve, no proxy, no identity, no log. It answers every body with so many bytes, once made.
"""

import sys
from time import monotonic

import uvicorn
from starlette.types import Receive, Scope, Send

from serve.cache.near import Near, NearReply
from serve.cache.recognise import raw_key
from serve.settings import CacheSettings
from serve.web.body import read_body


class Bare:
    """The application. `size`: of an answer, in bytes."""

    def __init__(self, size: int) -> None:
        self._near = Near(CacheSettings(), lambda *_: True)
        self._body = b"x" * size

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer from the near cache; what isn't there is there the next time."""
        if scope["type"] != "http":
            return
        headers = dict(scope["headers"])
        body = await read_body(receive, headers, 1 << 20)
        asked = (scope["method"], scope["path"], scope["query_string"], "", headers, body)
        key = raw_key(*asked)
        reply = self._near.get(key, monotonic())
        if reply is None:
            length = b"%d" % len(self._body)
            told = ((b"content-type", b"application/json"), (b"content-length", length))
            reply = NearReply("m", "d", "f", key, 0, monotonic() + 3600, 200, told, self._body)
            self._near.put(key, reply)
        start = {"type": "http.response.start", "status": 200, "headers": list(reply.headers)}
        await send(start)
        await send({"type": "http.response.body", "body": reply.body})


def main() -> None:
    """`PORT SIZE`: serve on loopback until ended."""
    port, size = map(int, sys.argv[1:3])
    uvicorn.run(
        Bare(size),
        host="127.0.0.1",
        port=port,
        loop="uvloop",
        http="httptools",
        lifespan="off",
        access_log=False,
        log_level="warning",
    )
