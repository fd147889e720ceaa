"""Asking members of the fleet: whole answers, and answers line by line."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from msgspec import structs

from serve.errors import EngineDied, RayllamaError
from serve.ports import Call, Failed, Head, Member
from serve.web.reply import Reply
from serve.web.services import Services
from serve.wire.errors import native_body

_JSON = b"application/json; charset=utf-8"


class Ask:
    """One request, as it is put to members."""

    def __init__(
        self,
        services: Services,
        method: str,
        path: str,
        body: bytes,
        request_id: str,
        *,
        deadline_s: float | None = None,
    ) -> None:
        self._services = services
        self._call = Call(method, path, body, request_id, deadline_s=deadline_s)

    def told_of(self, user_agent: str) -> None:
        """Have the members' engines hear who asks."""
        self._call = structs.replace(self._call, user_agent=user_agent)

    def _for(self, member: Member) -> Call:
        return structs.replace(self._call, replica=member.name)

    async def whole(self, member: Member) -> Reply:
        """That member's whole answer. Raises `EngineDied`, `EngineNotReady`."""
        head: Head | None = None
        parts: list[bytes] = []
        async with aclosing(self._services.inference.stream(self._for(member))) as frames:
            async for frame in frames:
                if isinstance(frame, Head):
                    head = frame
                elif isinstance(frame, bytes):
                    parts.append(frame)
                elif isinstance(frame, Failed):
                    raise EngineDied(frame.message)
        if head is None:
            raise EngineDied
        return Reply(head.status, head.content_type.encode(), b"".join(parts))

    async def each(self, members: Sequence[Member]) -> list[Reply]:
        """The answers of all, in their order; what is raised is an answer as well."""
        return list(await asyncio.gather(*map(self._caught, members)))

    async def _caught(self, member: Member) -> Reply:
        try:
            return await self.whole(member)
        except RayllamaError as error:
            return Reply(error.status, _JSON, native_body(error))

    async def lines(self, member: Member) -> AsyncGenerator[Head | bytes, None]:
        """A head, then whole lines. Raises as `whole`."""
        async with aclosing(self._services.inference.stream(self._for(member))) as frames:
            async for frame in frames:
                if isinstance(frame, Failed):
                    raise EngineDied(frame.message)
                if isinstance(frame, Head):
                    yield frame
                elif isinstance(frame, bytes):
                    for line in frame.splitlines(keepends=True):
                        yield line
