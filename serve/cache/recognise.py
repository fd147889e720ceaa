"""Recognising a request by its bytes alone, before anything is parsed.

Two requests with equal raw keys get the same reply byte for byte, so everything that shapes a
reply is in: method, path, query, tenant, body, and these headers:

- `Origin`: the reply's CORS headers repeat it.
- `Accept`: no route of Ollama's reads it today; kept so that one may.
- `Content-Encoding`: it says what the body's bytes mean.
- `Cache-Control`, `Pragma`: what the client allows the cache to do. (Requests that bring either are
  answered by the slower tiers, which understand them; see `serve.cache.service`.)

Not in: `Authorization` and `x-api-key` (they only name the tenant), `Content-Type` (Ollama ignores
it), `User-Agent` and the connection's own headers.
"""

from collections.abc import Mapping
from hashlib import blake2b

import msgspec

RAW_KEY_BYTES = 16

SHAPING_HEADERS = (b"origin", b"accept", b"content-encoding", b"cache-control", b"pragma")

_encode = msgspec.msgpack.Encoder().encode


def raw_key(
    method: str,
    path: str,
    query: bytes,
    tenant: str,
    headers: Mapping[bytes, bytes],
    body: bytes,
) -> bytes:
    """The raw key; `headers` by their names in lower case, as ASGI gives them.

    msgpack gives each part its type and length, so that no two requests' parts run together.
    """
    get = headers.get
    shaping = [get(name) for name in SHAPING_HEADERS]
    parts = _encode((method, path, query, tenant, shaping, body))
    return blake2b(parts, digest_size=RAW_KEY_BYTES).digest()
