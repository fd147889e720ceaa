"""`ollama stop`: a generation of nothing, with `keep_alive: 0`, unloads a model (server/routes.go).

It is meant for the model, not for one server, so every replica of its pool hears it.
"""

import re
from collections.abc import Mapping
from typing import Any

from serve.errors import EngineRefused
from serve.web.asking import Ask
from serve.web.dialects import Asked
from serve.web.exchange import Exchange
from serve.web.meter import Verdict
from serve.web.reply import CACHE_HEADER
from serve.web.services import Services
from serve.wire.frames import error_text

_UNLOAD = Verdict("bypass", "unload")
_ZERO = re.compile(r"[+-]?0+(\.0*)?(ns|us|µs|ms|s|m|h)?")
_SAID = {"/api/generate": ("prompt", "images"), "/api/chat": ("messages",)}


def is_unload(route: str, native: Mapping[str, Any]) -> bool:
    """Does it ask for nothing but that?"""
    said = _SAID.get(route)
    if said is None or any(native.get(name) for name in said):
        return False
    keep_alive = native.get("keep_alive")
    if isinstance(keep_alive, str):
        return _ZERO.fullmatch(keep_alive) is not None
    is_number = isinstance(keep_alive, int | float) and not isinstance(keep_alive, bool)
    return is_number and keep_alive == 0


async def unload(services: Services, exchange: Exchange, asked: Asked) -> None:
    """Have it unloaded everywhere. The answer is the first that is good, else the first at all."""
    exchange.verdict = _UNLOAD
    pool = services.fleet.pool_of(asked.model) if services.fleet is not None else None
    members = [each for each in services.members() if pool in (None, each.pool)]
    ask = Ask(services, "POST", asked.route, asked.body, exchange.request_id)
    replies = await ask.each(members or services.members())
    reply = next((each for each in replies if each.status == 200), replies[0])
    if reply.status != 200 and exchange.route.startswith("/v1/"):
        raise EngineRefused(reply.status, error_text(reply.body))
    exchange.began(reply.status)
    await reply.send(exchange.send, more=[(CACHE_HEADER, _UNLOAD.header())])
