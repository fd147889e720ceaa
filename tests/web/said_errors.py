"""Every error in every dialect, as clients read it.

`data/errors.jsonl` holds what was said when a person last looked. After a change that is meant:
`python -m tests.web.said_errors > tests/web/data/errors.jsonl`, and read the difference.
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from serve.errors import EngineRefused, RayllamaError
from serve.web.dialects import Asked
from serve.web.exchange import Exchange
from serve.web.failure import failure
from serve.web.routes import ASKED
from tests.test_errors import KINDS, made

GOLDEN = Path(__file__).with_name("data") / "errors.jsonl"
ROUTES = {
    "native": "/api/chat",
    "openai": "/v1/chat/completions",
    "anthropic": "/v1/messages",
    "plain": "/healthz",
}
"""A route of each dialect; what belongs to none is answered as Ollama's own routes are."""

REFUSALS = (400, 401, 403, 404, 429, 500, 501, 502, 503)
"""The statuses that an engine's own refusals have."""

STREAMED = (
    *("/api/generate", "/api/chat", "/v1/chat/completions", "/v1/completions"),
    *("/v1/responses", "/v1/messages"),
)
ASKS = {
    "model": "m",
    "messages": [{"role": "user", "content": "hi"}],
    "prompt": "hi",
    "input": "hi",
    "max_tokens": 9,
    "stream": True,
}


def errors() -> Iterator[tuple[str, RayllamaError]]:
    """All of the tree, and refusals by status."""
    yield from ((kind.__name__, made(kind)) for kind in KINDS if kind is not EngineRefused)
    yield from ((f"EngineRefused {status}", EngineRefused(status, "text")) for status in REFUSALS)


def said() -> Iterator[dict[str, object]]:
    """A row for each answer, and for each end of a stream that had begun."""
    for name, error in errors():
        for dialect, route in ROUTES.items():
            reply = failure(error, route)
            headers = {key.decode(): value.decode() for key, value in reply.headers}
            row = {"error": name, "dialect": dialect, "status": reply.status, "headers": headers}
            yield row | {"body": anonymous(reply.body)}
    for route in STREAMED:
        yield {"stream": route, "end": anonymous(ended(route))}


def ended(route: str) -> bytes:
    """What a stream says last when it fails before its first line."""
    return asked(route).renderer().broken("text")


def asked(route: str) -> Asked:
    """A streamed request there."""

    async def nothing(*_: object) -> None:
        raise AssertionError

    exchange = Exchange(route, {}, "id", nothing, nothing)  # type: ignore[arg-type]
    exchange.body = json.dumps(ASKS).encode()
    return ASKED[route](exchange)


def anonymous(body: bytes) -> str:
    """Without what is drawn anew each time."""
    return re.sub(r"req_[0-9a-f]{24}", "req_#", body.decode())


if __name__ == "__main__":
    for row in said():
        sys.stdout.write(json.dumps(row) + "\n")
