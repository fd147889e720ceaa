"""Is it alive, is it ready: for people, load balancers and `rayllama up`."""

import asyncio

from starlette.types import Receive, Scope, Send

from serve.errors import RayllamaError
from serve.web.catalogue import asked_of_one
from serve.web.reply import Reply
from serve.web.services import Services

_PLAIN = b"text/plain; charset=utf-8"
_READY_WITHIN_S = 5


async def running(scope: Scope, _receive: Receive, send: Send) -> None:
    """`/`: what every Ollama client asks first."""
    await Reply(200, _PLAIN, b"Ollama is running").send(send, head=scope["method"] == "HEAD")


async def healthz(_scope: Scope, _receive: Receive, send: Send) -> None:
    """Alive: this process answers."""
    await Reply(200, _PLAIN, b"ok").send(send)


class Readyz:
    """Ready: an engine answers through the whole path, and the cache has heard of its models."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._was_ready = False

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """200 or, with the reason, 503.

        The cache counts only until the first time: without it everything is answered, as misses.
        A pool that is asleep is not woken by who only asks this.
        """
        fleet = self._services.fleet
        if self._was_ready and fleet is not None and fleet.may_be_empty and not fleet.members():
            await Reply(200, _PLAIN, b"ready; no replica runs, the first request waits").send(send)
            return
        try:
            async with asyncio.timeout(_READY_WITHIN_S):
                reply = await asked_of_one(self._services, scope, "/api/version", b"")
            reason = b"" if reply.status == 200 else reply.body
        except (RayllamaError, TimeoutError) as error:
            reason = (str(error) or "no engine answered in time").encode()
        if not (reason or self._was_ready or self._services.answers.has_catalogue):
            reason = b"the cache has not heard of the engine's models yet"
        self._was_ready = self._was_ready or not reason
        await Reply(503 if reason else 200, _PLAIN, reason or b"ready").send(send)
