"""The near cache: ready replies in the ingress's own memory, by the bytes that asked for them.

A hit here costs a hash and a look-up. It is served only while the catalogue, under a live lease,
maps the entry's model to the digest and the engines' fingerprint that the answer was made from: a
changed tag makes every near answer of the old one invisible in the same instant.
"""

from collections.abc import Callable

from moka_py import Moka
from msgspec import Struct

from serve.cache.store import bounded
from serve.settings import CacheSettings

OVERHEAD_BYTES = 1024
"""What a reply takes beside its body and key: moka's node, the objects' and headers' own sizes.
Measured over 100,000 replies of 1 KiB and rounded up."""

Headers = tuple[tuple[bytes, bytes], ...]


class NearReply(Struct, frozen=True, gc=False):
    """A reply as it goes out, and what decides whether it still may.

    `stored_at`: seconds since the epoch, for `Age`. `expires_at`: by the clock that `get` is given.
    `key`: the request's key in the shared store. `tokens`, `gpu_ns`: what it saves each time.
    """

    model: str
    digest: str
    fingerprint: str
    key: bytes
    stored_at: float
    expires_at: float
    status: int
    headers: Headers
    body: bytes
    tokens: int = 0
    gpu_ns: int = 0


Vouches = Callable[[str, str, str, float], bool]
"""`Catalogue.vouches`: (model, digest, fingerprint, now)."""


class Near:
    """Replies by raw key, at most `cache.near_max_bytes` of them. 0: none."""

    def __init__(self, settings: CacheSettings, vouches: Vouches) -> None:
        self._max_bytes = settings.near_max_bytes
        self._vouches = vouches
        self._moka: Moka[bytes, NearReply] = Moka(
            self._max_bytes,
            ttl=bounded(settings.ttl_s),
            tti=bounded(settings.idle_ttl_s),
            policy=settings.eviction,
            weigher=_weight,
        )

    def get(self, raw_key: bytes, now: float) -> NearReply | None:
        """The reply to these bytes, if there is one that may be served now."""
        reply: NearReply | None = self._moka.get(raw_key)
        if reply is None or reply.expires_at <= now:
            return None
        if not self._vouches(reply.model, reply.digest, reply.fingerprint, now):
            return None
        return reply

    def put(self, raw_key: bytes, reply: NearReply) -> None:
        """Remember a reply, unless it is larger than the whole cache."""
        if _weight(raw_key, reply) <= self._max_bytes:
            self._moka.set(raw_key, reply)
            self._moka.run_pending_tasks()

    def clear(self) -> None:
        """Forget all replies."""
        self._moka.clear()
        self._moka.run_pending_tasks()

    @property
    def entries(self) -> int:
        """How many replies are held."""
        return int(self._moka.count())

    @property
    def held_bytes(self) -> int:
        """What they weigh."""
        return int(self._moka.weighted_size())


def _weight(raw_key: bytes, reply: NearReply) -> int:
    return len(raw_key) + len(reply.body) + OVERHEAD_BYTES
