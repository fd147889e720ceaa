"""Reading a request's body, bounded."""

from collections.abc import Mapping

from starlette.types import Receive

from serve.errors import BodyTooLarge


class ClientGone(Exception):  # noqa: N818  (an event, not a fault)
    """The client closed its connection: nothing is left to answer."""


async def read_body(receive: Receive, headers: Mapping[bytes, bytes], limit: int) -> bytes:
    """The whole body.

    Raises `BodyTooLarge` as soon as the declared or the received length passes `limit` bytes, and
    `ClientGone` if the client leaves in the middle.
    """
    declared = headers.get(b"content-length")
    if declared is not None and declared.isdigit() and int(declared) > limit:
        raise BodyTooLarge(f"request body too large: the limit is {limit} bytes")
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body", False):
        body: bytes = message.get("body", b"")
        if len(body) > limit:
            raise BodyTooLarge(f"request body too large: the limit is {limit} bytes")
        return body
    parts: list[bytes] = []
    size = 0
    while True:
        if message["type"] == "http.disconnect":
            raise ClientGone
        part = message.get("body", b"")
        size += len(part)
        if size > limit:
            raise BodyTooLarge(f"request body too large: the limit is {limit} bytes")
        parts.append(part)
        if not message.get("more_body", False):
            return b"".join(parts)
        message = await receive()


async def until_gone(receive: Receive) -> None:
    """Raise `ClientGone` when the client leaves; what else arrives is ignored.

    Serve's own cancellation can be switched off by a request header, so the app watches itself.
    """
    while (await receive())["type"] != "http.disconnect":
        pass
    raise ClientGone
