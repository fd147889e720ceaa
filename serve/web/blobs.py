"""`HEAD` and `POST /api/blobs/{digest}`: what a model is created from, brought to every store.

The body is handed on in pieces, and the next is handed on when every store that lacks the blob has
written the one before (`PUT /rayllama/blobs/{digest}?at=…&last=…`, in the replica). Whatever comes
meanwhile is kept here: if that is more than `ingress.max_upload_backlog_bytes`, the upload is cut.
"""

import asyncio
import re
from collections.abc import AsyncGenerator
from contextlib import aclosing

from starlette.types import Receive, Scope, Send

from serve.errors import BadRequest, BodyTooLarge, NotFound
from serve.ports import Member
from serve.web.asking import Ask
from serve.web.body import ClientGone
from serve.web.failure import failure
from serve.web.manage import admin_only
from serve.web.reply import Reply
from serve.web.services import Services
from serve.wire.native import quoted

PIECE_BYTES = 4 << 20
_DIGEST = re.compile(r"sha256[:-][0-9a-fA-F]{64}")
_MORE, _STORED, _THERE = 202, 201, 200


class Blobs:
    """Both verbs of the route."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Is it there; or store it."""
        services = self._services
        admin_only(services, dict(scope["headers"]))
        digest = str(scope["path_params"]["digest"])
        if _DIGEST.fullmatch(digest) is None:
            raise BadRequest("invalid digest format")
        id_ = scope["request_id"]
        stores = services.stores()
        heads = await Ask(services, "HEAD", f"/api/blobs/{digest}", b"", id_).each(stores)
        lacking = [store for store, head in zip(stores, heads, strict=True) if head.status == 404]
        failed = [head for head in heads if head.status not in (200, 404)]
        if failed or scope["method"] == "HEAD":
            reply = failed[0] if failed else Reply(_THERE, b"", b"")
            if lacking and not failed:
                reply = failure(NotFound(f"blob {quoted(digest)} not found"), scope["path"])
            await reply.send(send, head=scope["method"] == "HEAD")
        elif not lacking:
            await Reply(_THERE, b"", b"").send(send)
        else:
            async with Backlog(receive, services.max_upload_backlog_bytes) as backlog:
                reply = await self._upload(backlog, digest, lacking, id_)
            await reply.send(send)

    async def _upload(
        self, backlog: "Backlog", digest: str, stores: list[Member], request_id: str
    ) -> Reply:
        """Piece by piece to those that still want some. The first refusal ends it."""
        at = 0
        async with aclosing(backlog.pieces()) as pieces:
            async for piece, is_last in pieces:
                path = f"/rayllama/blobs/{digest}?at={at}&last={int(is_last)}"
                ask = Ask(self._services, "PUT", path, piece, request_id)
                replies = await ask.each(stores)
                at += len(piece)
                for reply in replies:
                    if reply.status not in (_MORE, _STORED, _THERE):
                        return reply
                stores = [
                    store
                    for store, reply in zip(stores, replies, strict=True)
                    if reply.status == _MORE
                ]
                if not stores:
                    break
        return Reply(_STORED, b"", b"")


class Backlog:
    """Owns the task that takes the body from the server, as fast as it comes."""

    def __init__(self, receive: Receive, max_bytes: int) -> None:
        self._receive = receive
        self._max_bytes = max_bytes
        self._waiting = bytearray()
        self._is_whole = False
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "Backlog":
        self._task = asyncio.get_running_loop().create_task(self._take())
        self._task.add_done_callback(lambda _: self._changed.set())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def pieces(self) -> AsyncGenerator[tuple[bytes, bool], None]:
        """Pieces of at most 4 MiB, each with whether it is the last.

        Raises `ClientGone`, or `BodyTooLarge` if more than the limit waits.
        """
        is_last = False
        while not is_last:
            while len(self._waiting) < PIECE_BYTES and not self._is_whole:
                self._changed.clear()
                self._check()
                await self._changed.wait()
                self._check()
            piece = bytes(self._waiting[:PIECE_BYTES])
            del self._waiting[:PIECE_BYTES]
            is_last = self._is_whole and not self._waiting
            yield piece, is_last

    def _check(self) -> None:
        if self._task is not None and self._task.done() and (error := self._task.exception()):
            raise error

    async def _take(self) -> None:
        while not self._is_whole:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            self._waiting += message.get("body", b"")
            if len(self._waiting) > self._max_bytes:
                raise BodyTooLarge(
                    f"the upload is {len(self._waiting)} bytes ahead of the disk; the limit is "
                    f"{self._max_bytes} (ingress.max_upload_backlog_bytes)"
                )
            self._is_whole = not message.get("more_body", False)
            self._changed.set()
