"""The admin API's export and import: all shards' entries as one file, streamed.

The file's own end says whether it is whole; an export that breaks off is a connection that is cut.
An import lies in a temporary file until all of it is there, since nothing of a damaged one is used.
"""

import asyncio
import logging
import tempfile
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import BinaryIO, cast

from msgspec import Struct
from starlette.types import Receive, Scope, Send

from serve.cache.bundle import bundle, unbundle
from serve.errors import CacheUnavailable
from serve.web.admin import AdminServices, read, say
from serve.web.body import ClientGone, until_gone
from serve.web.reply import end, part, start
from serve.wire.names import canonical

log = logging.getLogger("rayllama.admin")

FILE = b"application/octet-stream"


class ExportBody(Struct, frozen=True, forbid_unknown_fields=True):
    """Which entries: those that fit all that is said; if nothing is, all."""

    model: str = ""
    tenant: str = ""


class ExportEntries:
    """`POST /admin/cache/export`: the entries as a file."""

    def __init__(self, services: AdminServices) -> None:
        self._services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Ask every shard, a piece at a time. Raises `CacheUnavailable` before the first piece."""
        services = self._services
        given = await read(services, scope, receive, ExportBody)
        model = canonical(given.model) if given.model else ""
        pieces = bundle(services.answers.shards, services.now, model=model, tenant=given.tenant)
        gone = asyncio.get_running_loop().create_task(until_gone(receive))
        try:
            async with aclosing(pieces):
                first = await anext(pieces)
                await start(send, 200, [(b"content-type", FILE)])
                await part(send, first)
                await self._rest(pieces, gone, send)
        finally:
            gone.cancel()
            await asyncio.wait([gone])
            _ = gone.cancelled() or gone.exception()  # taken note of
        await end(send)

    async def _rest(
        self, pieces: AsyncGenerator[bytes], gone: "asyncio.Task[None]", send: Send
    ) -> None:
        """Raises `ClientGone`, and what makes the server cut the connection."""
        try:
            async for piece in pieces:
                if gone.done():
                    raise ClientGone
                await part(send, piece)
        except CacheUnavailable as error:  # too late for another answer
            raise ConnectionAbortedError(f"an export broke off: {error}") from error


class ImportEntries:
    """`POST /admin/cache/import`: take in a file that an export gave."""

    def __init__(self, services: AdminServices) -> None:
        self._services = services

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        """Give each entry to its shard. Raises `SnapshotRefused` and `CacheUnavailable`."""
        services = self._services
        with tempfile.TemporaryFile(prefix="rayllama-") as file:
            await _received(receive, cast("BinaryIO", file))
            counts = await unbundle(
                services.answers.shards,
                cast("BinaryIO", file),
                services.now,
                max_entry_bytes=services.answers.settings.max_entry_bytes,
            )
        taken, expired = counts.pop("taken", 0), counts.pop("expired", 0)
        log.info("imported %d entries; %d had expired; skipped %s", taken, expired, dict(counts))
        await say(send, {"taken": taken, "expired": expired, "skipped": dict(counts)})


async def _received(receive: Receive, file: BinaryIO) -> None:
    """The body, in a file. Raises `ClientGone`."""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        await asyncio.to_thread(file.write, message.get("body", b""))
        if not message.get("more_body", False):
            break
    await asyncio.to_thread(file.seek, 0)
