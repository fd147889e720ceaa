"""Routes that are asked of one engine and passed on."""

from contextlib import aclosing

from starlette.types import Receive, Scope, Send

from serve.errors import EngineDied
from serve.ports import Call, Failed, Head
from serve.web.body import read_body
from serve.web.reply import Reply
from serve.web.services import Services


class Passed:
    """A route of Ollama's own, passed on as it is."""

    def __init__(self, services: Services, path: str) -> None:
        self._services = services
        self._path = path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Ask one engine."""
        headers = dict(scope["headers"])
        self._services.directory.identify(headers)
        body = b""
        if scope["method"] not in ("GET", "HEAD"):
            body = await read_body(receive, headers, self._services.max_body_bytes)
        reply = await asked_of_one(self._services, scope, self._path, body)
        await reply.send(send, head=scope["method"] == "HEAD")


async def asked_of_one(services: Services, scope: Scope, path: str, body: bytes) -> Reply:
    """One engine's whole answer. Raises `EngineDied` if it gives none."""
    method = "GET" if scope["method"] == "HEAD" else scope["method"]
    call = Call(method, path, body, scope["request_id"], deadline_s=services.deadline_s)
    head: Head | None = None
    parts: list[bytes] = []
    async with aclosing(services.inference.stream(call)) as frames:
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
