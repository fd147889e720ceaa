"""What of a request concerns its place: how much context it asks for, whose conversation it is."""

from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

_SESSION = b"x-session-id"
_OPENING = 2
"""The messages that a conversation is known by: its system message and the first that was said."""


def num_ctx_of(native: Mapping[str, Any]) -> int:
    """Tokens of context; 0 if it asks for none, or not for a number that makes sense."""
    options = native.get("options")
    asked = options.get("num_ctx") if isinstance(options, Mapping) else None
    if isinstance(asked, float) and asked.is_integer():
        asked = int(asked)
    if not isinstance(asked, int) or isinstance(asked, bool):
        return 0
    return asked if 0 < asked < 1 << 31 else 0


def affinity_of(headers: Mapping[bytes, bytes], native: Mapping[str, Any]) -> str:
    """The same for all requests of one conversation: its session, else its opening; "" if none."""
    session = headers.get(_SESSION)
    if session:
        return _named(session)
    messages = native.get("messages")
    if not isinstance(messages, list) or not messages:
        return ""
    said = [each.get("content") for each in messages[:_OPENING] if isinstance(each, Mapping)]
    return _named(
        "\0".join(each for each in said if isinstance(each, str)).encode("utf-8", "replace")
    )


def _named(whose: bytes) -> str:
    return blake2b(whose, digest_size=8).hexdigest()
