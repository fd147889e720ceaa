"""Did an answer end well? Seen from its frames alone, since only then may it be trusted whole.

A stream can end without a word that something is wrong: a last line with `error`, or no line with
`done: true` (Ollama stops silently when a model repeats itself, or when its runner leaves early).
"""

from serve.ports import Head
from serve.wire.frames import last_line, parse_last

_NDJSON = "application/x-ndjson"


class Ending:
    """Watches an answer go by; keeps its last bytes."""

    def __init__(self) -> None:
        self._head = Head(0, "")
        self._last = b""

    def see(self, frame: Head | bytes) -> None:
        """The next frame of the answer."""
        if isinstance(frame, Head):
            self._head = frame
        else:
            self._last = frame

    def is_good(self) -> bool:
        """Whether what was seen is a whole, successful answer of the engine."""
        if not 200 <= self._head.status < 300:
            return False
        if not self._head.content_type.startswith(_NDJSON):
            return True  # its length was known, or its chunks had an end: the client checked
        return parse_last(last_line(self._last)) is not None
