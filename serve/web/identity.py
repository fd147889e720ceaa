"""Who is calling: the one place that reads a key from a request.

Keys are known by their sha256 alone (`auth.keys`); the tenant comes from the key, never from
anything a client may choose. Without keys everybody is the tenant `default`, as with Ollama.

A key is revoked by deploying a config without it: Serve then starts new ingresses, which know it no
longer, and new shards, which take back no entry of a tenant that has lost its last key
(`serve.cache.warmth`, rule 7). Who calls is asked before any look-up, in the near cache too.
"""

import hashlib
from collections.abc import Mapping
from typing import NamedTuple

from serve.errors import Unauthorized
from serve.settings import AuthSettings


class Identity(NamedTuple):
    """Whose request it is, and whether it may do more than ask."""

    tenant: str
    admin: bool


ANYBODY = Identity("default", admin=True)


class Directory:
    """The configured keys."""

    def __init__(self, auth: AuthSettings) -> None:
        self._keys = {
            key.sha256.get_secret_value(): Identity(key.tenant, key.admin) for key in auth.keys
        }

    @property
    def is_open(self) -> bool:
        """Whether no key is configured."""
        return not self._keys

    def identify(self, headers: Mapping[bytes, bytes]) -> Identity:
        """The caller behind `Authorization: Bearer KEY` or `x-api-key: KEY`.

        Raises `Unauthorized` for a missing or unknown key. Only hashes are compared, so the time
        that a look-up takes says nothing about a key.
        """
        if not self._keys:
            return ANYBODY
        presented = headers.get(b"x-api-key", b"")
        authorization = headers.get(b"authorization", b"")
        if authorization[:7].lower() == b"bearer ":
            presented = authorization[7:].strip()
        if not presented:
            raise Unauthorized("unauthorized: send a key as 'Authorization: Bearer KEY'")
        found = self._keys.get(hashlib.sha256(presented).hexdigest())
        if found is None:
            raise Unauthorized("unauthorized: unknown key")
        return found
