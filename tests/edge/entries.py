"""Answers planted at the edge of a real proxy, as the feeder would."""

import asyncio
import time

from serve.edge.admin_socket import add, admin, clear
from serve.edge.key import edge_key
from serve.edge.value import Facts, kind_of, value_of
from tests.edge.proxy import Proxy, headers_of

JSON = b"application/json; charset=utf-8"
NDJSON = b"application/x-ndjson"
KEY = bytes(range(16))


def do(proxy: Proxy, *commands: bytes) -> list[str]:
    async def doing() -> list[str]:
        async with admin(proxy.state.socket) as connection:
            return await connection.do(commands)

    return asyncio.run(doing())


def planted(
    proxy: Proxy,
    body: bytes,
    answer: bytes = b'{"answer":1}',
    *,
    path: str = "/api/chat",
    query: bytes = b"",
    content_type: bytes = JSON,
    headers: dict[str, str] | None = None,
    age_s: float = 5.5,
    left_s: float = 100,
) -> str:
    """The only entry: the answer to these bytes. Returns its key."""
    key = edge_key(path, query, headers_of(proxy, headers), body)
    assert key is not None
    plant(proxy, key, answer, content_type=content_type, age_s=age_s, left_s=left_s)
    return key


def plant(
    proxy: Proxy,
    key: str | None,
    answer: bytes = b'{"answer":1}',
    *,
    content_type: bytes = JSON,
    age_s: float = 5.5,
    left_s: float = 100,
) -> None:
    """The only entry, under that key; none if there is none."""
    kind = kind_of(200, [(b"content-type", content_type)], answer)
    assert kind is not None
    now = time.time()
    value = value_of(Facts(now - age_s, now + left_s, 3600, KEY), kind, answer)
    answers = proxy.state.answers
    entries = [add(answers, key, value)] if key else []
    assert do(proxy, clear(answers), *entries) == []
