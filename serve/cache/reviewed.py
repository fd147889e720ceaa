"""The reviewed list: every field of a request that the key leaves out, and why it may.

Whatever is not named here is in the key. A test walks every field of every request type, of the
client libraries' and of our own, and fails for one that is neither in the key nor here, and for one
that stands here and is in the key.
"""

from collections.abc import Mapping

from serve.wire.fields import FIELDS

IGNORED: Mapping[str, str] = {
    "model": "its spelling only: the content digest is in the key, and replies echo the caller's",
    "stream": "an entry holds the chunks, from which both forms are rendered",
    "keep_alive": "how long the model stays loaded afterwards, not what it says",
    "user": "OpenAI's end-user label; no engine reads it",
    "metadata": "OpenAI's labels for stored completions; no engine reads them",
    "store": "OpenAI's wish to keep the completion on their side; no engine reads it",
}
"""Top-level fields of a native request."""

IGNORED_WHEN_GREEDY: Mapping[str, str] = {
    "top_p": "at temperature 0 it only removes tokens that would not be taken",
}
"""Options."""

UNTOLD: Mapping[str, Mapping[str, str]] = {
    route: {path: fate.how for path, fate in fields.items() if fate.what in ("ignored", "rendered")}
    for route, fields in FIELDS.items()
}
"""Fields of other dialects' routes, by path, that their translation to a native request leaves out.
The key is over what it is translated into, so it can't tell them apart, and neither can the engine.
Top-level fields that no table has are in the key all the same (`serve.cache.key`)."""
