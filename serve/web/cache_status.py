"""`Cache-Status` (RFC 9211): what the cache made of a request, in the words of HTTP.

    Cache-Status: rayllama; hit; ttl=3541; key="d841…"; detail=near
    Cache-Status: rayllama; fwd=miss; key="d841…"; detail=cold; stored

`hit` (§2.1). `fwd` (§2.2) says why the engines were asked: `miss` where memory had no answer,
`stale` where its answer was past its time, `partial` where it had some inputs of an embedding
batch, `request` where the client's own Cache-Control ruled it out, `bypass` where such a request is
never answered from memory. Not `uri-miss`: what an answer is found by is the body, and the URI is
the same for all. `ttl` (§2.4) is what is left of `cache.ttl_s`, below 0 for an answer past its
time; an answer may leave a full store sooner. `key` (§2.6) is the request's key in hex. `detail`
(§2.8) is the tier or the reason of `X-Rayllama-Cache`.

`stored` (§2.5) is there if the answer was kept, and known to be, when the header was sent: whole
replies are kept before they are sent. A stream's header goes out before its end is known, and only
its end decides; there the parameter is left out, which says nothing either way.
"""

from starlette.types import Message, Send

from serve.cache.service import Miss
from serve.web.meter import Verdict
from serve.web.reply import CACHE_HEADER, Header

CACHE_STATUS = b"cache-status"

_HIT = b'rayllama; hit; ttl=%d; key="%b"; detail=%b'
_FORWARDED = {
    "no-cache": "request",
    "no-store": "request",
    "too-old": "request",
    "partial": "partial",
    "stale": "stale",
}
"""`fwd` by the reason, where it isn't just `miss` or `bypass`."""


def of_hit(key: bytes, age_s: int, lifetime_s: int, tier: bytes) -> Header:
    """The header of an answer from memory."""
    ttl_s = lifetime_s - age_s
    return CACHE_STATUS, _HIT % (
        ttl_s if ttl_s > 0 or tier == b"stale" else 0,
        key.hex().encode(),
        tier,
    )


def of_miss(miss: Miss, *, is_stored: bool) -> Header:
    """The header of an answer that the pool gave; of a refusal, that it would have to be asked."""
    parts = [f"rayllama; fwd={_FORWARDED.get(miss.reason, miss.kind)}"]
    if miss.question is not None:
        parts.append(f'key="{miss.question.key.hex()}"')
    parts.append(f"detail={miss.reason}")
    if is_stored:
        parts.append("stored")
    return CACHE_STATUS, "; ".join(parts).encode()


class Forwarded:
    """The `send` of a request that memory did not answer: it adds what the cache has to say.

    `is_stored` is set by who keeps the answer.
    """

    def __init__(self, send: Send, miss: Miss) -> None:
        self._send = send
        self._miss = miss
        self.is_stored = False

    async def __call__(self, message: Message) -> None:
        """Pass a message on; the first with the headers."""
        if message["type"] == "http.response.start":
            headers = [*message["headers"], of_miss(self._miss, is_stored=self.is_stored)]
            if not any(name == CACHE_HEADER for name, _ in headers):  # an error's reply
                verdict = Verdict(self._miss.kind, self._miss.reason)
                headers.append((CACHE_HEADER, verdict.header()))
            message["headers"] = headers
        await self._send(message)
