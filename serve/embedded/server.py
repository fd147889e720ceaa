"""The engine's HTTP: one raw ASGI application.

Every request runs as a task of its own, which ends when the client leaves, so that a computation
that nobody waits for stops at the next token and its slot is free.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, MutableMapping
from dataclasses import replace
from typing import Any

from serve.embedded.engine import Engine, Request
from serve.embedded.gate import Gate, Passed
from serve.embedded.replies import Header, Reply, Send, error_reply
from serve.embedded.routes import (
    STATUS_PATH,
    is_upload,
    not_allowed,
    not_found,
    redirect,
    verbs_of,
)
from serve.embedded.scheduler import Replaced
from serve.errors import RayllamaError

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]

_log = logging.getLogger(__name__)
_TRIES = 3


class Server:
    """The ASGI application over an engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._gate = Gate(engine.config.origins)

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Serves one request; nothing else than HTTP comes here."""
        if is_upload(scope["method"], scope["path"]):
            with contextlib.suppress(ConnectionAbortedError):
                await self._serve(scope, b"", send, _upload(receive))
            return
        body = await _body(receive)
        if body is None:
            return
        work = asyncio.get_running_loop().create_task(self._serve(scope, body, send))
        watch = asyncio.get_running_loop().create_task(_disconnected(receive))
        try:
            await asyncio.wait((work, watch), return_when=asyncio.FIRST_COMPLETED)
        finally:
            watch.cancel()
            work.cancel()
            await asyncio.gather(work, watch, return_exceptions=True)
        if not work.cancelled():
            work.result()

    async def _serve(
        self,
        scope: MutableMapping[str, Any],
        body: bytes,
        send: Send,
        upload: AsyncIterator[bytes] | None = None,
    ) -> None:
        started = time.monotonic()
        method, path = scope["method"], scope["path"]
        headers = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]
        }
        async with contextlib.AsyncExitStack() as ends:
            request = Request(body, headers, ends, path, upload)
            reply = await self._reply(
                method, path, scope["query_string"].decode("latin-1"), request
            )
            await reply.send(send)
        if path != STATUS_PATH:
            _log.info("%s %s %.1f ms", method, path, (time.monotonic() - started) * 1000)

    async def _reply(self, method: str, path: str, query: str, request: Request) -> Reply:
        moved = redirect(method, path, query)
        if moved is not None:
            return moved
        verbs = verbs_of(path)
        passed = self._gate.check(method, request.headers)
        allow: tuple[Header, ...] = ()
        if verbs and method not in verbs:
            allow = ((b"allow", ", ".join(verbs).encode()),)
        if isinstance(passed, Passed):
            reply = await self._handled(method, path, request)
            return replace(reply, headers=(*allow, *passed.headers, *reply.headers))
        return replace(passed, headers=(*allow, *passed.headers))

    async def _handled(self, method: str, path: str, request: Request) -> Reply:
        verbs = verbs_of(path)
        if not verbs:
            return not_found()
        handler = verbs.get(method)
        if handler is None:
            return not_allowed()
        failed: RayllamaError = Replaced()
        for _ in range(_TRIES):
            try:
                return await handler(self._engine, request)
            except Replaced:
                continue
            except RayllamaError as error:
                failed = error
                break
        return error_reply(failed)


async def _body(receive: Receive) -> bytes | None:
    """The request's body; None if the client left before it was all there."""
    parts = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)


async def _upload(receive: Receive) -> AsyncGenerator[bytes, None]:
    """The body as it comes. Raises `ConnectionAbortedError` where the client leaves before its end;
    one who answers before that need not take it."""
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ConnectionAbortedError
        more = message.get("more_body", False)
        yield message.get("body", b"")


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
