"""`/v1/audio/transcriptions`: the form goes to an engine as it came, and its answer comes back.

Nothing of it is cached: Ollama makes a chat of the form itself, with words of its own around the
sound, and only the engine knows which.
"""

from functools import partial

from msgspec import structs
from starlette.types import Receive, Scope, Send

from serve.errors import EngineDied, EngineRefused, NotCapable
from serve.ports import Failed, Head
from serve.web.dialects import Asked, NativeRenderer
from serve.web.exchange import UNASKED, Exchange
from serve.web.relay import Answer, Frames, Relay, call_for
from serve.web.reply import Reply
from serve.web.services import Services
from serve.wire.forms import form_field
from serve.wire.frames import ERROR_START, error_text

TRANSCRIPTIONS = "/v1/audio/transcriptions"

_NATIVE_ERROR = ERROR_START + b':"'
_MAX_NAME = 1024
_INCAPABLE = "this engine does not transcribe audio"


class Transcriptions:
    """The route, as an ASGI application behind the gateway."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def __call__(self, scope: Scope, _receive: Receive, _send: Send) -> None:
        """Pass it on."""
        exchange: Exchange = scope["exchange"]
        deadline_s = self._services.deadline_s
        form = exchange.headers.get(b"content-type", b"")
        spelled = form_field(exchange.body, form, b"model", max_bytes=_MAX_NAME)
        renderer = partial(NativeRenderer, TRANSCRIPTIONS)
        asked = Asked(
            TRANSCRIPTIONS, {}, exchange.body, spelled, is_streamed=False, renderer=renderer
        )
        exchange.model = asked.model or spelled
        exchange.verdict = UNASKED
        call = structs.replace(
            call_for(exchange, asked, deadline_s), content_type=form.decode("latin-1")
        )
        relay = _AsItIs(exchange, asked, 0, _keep_nothing)
        await relay.run(self._services.inference.stream(call), deadline_s)


class _AsItIs(Relay):
    """An answer in OpenAI's own form, which needs no other words."""

    async def _copy(self, head: Head, first: bytes, frames: Frames) -> None:
        """Pass it on whole. What a replica says in Ollama's words is said in OpenAI's."""
        parts = [first]
        async for frame in frames:
            if isinstance(frame, Failed):
                raise EngineDied(frame.message)
            if isinstance(frame, bytes):
                parts.append(frame)
        body = b"".join(parts)
        if head.status == 404 and not head.content_type.startswith("application/json"):
            raise NotCapable(_INCAPABLE)
        if head.status != 200 and body.startswith(_NATIVE_ERROR):
            raise EngineRefused(head.status, error_text(body))
        exchange = self._exchange
        exchange.began(head.status)
        reply = Reply(head.status, head.content_type.encode(), body, headers=self._about(head))
        await reply.send(exchange.send)


def _keep_nothing(_answer: Answer) -> None:
    """Nothing of it is cached."""
