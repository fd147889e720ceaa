"""What an engine writes to its standard output and error: a bounded file of its own.

The engine gets the file itself, not a pipe: it can't block on a reader that is busy, and its last
words are there after everybody has died. The file is opened for appending, so cutting it to nothing
while the engine writes is safe; the last part is kept beside it.
It may hold what users wrote (at Ollama's debug levels), so it is readable by its owner alone.
"""

import os
import re
from pathlib import Path

_TAIL_BYTES = 32 << 10
_MAX_BYTES = 16 << 20
_HEAD_BYTES = 256 << 10
_COMPUTE = re.compile(rb'msg="inference compute".* library=(?!cpu\b)\S+', re.IGNORECASE)


class EngineLog:
    """The file `engine.log` in an engine's directory, as one engine writes it."""

    def __init__(self, directory: Path, *, max_bytes: int = _MAX_BYTES) -> None:
        self.path = directory / "engine.log"
        self._older = directory / "engine.log.1"
        self._max_bytes = max_bytes
        self._begin = 0

    def open(self) -> int:
        """A file descriptor for the engine to write to; the caller closes its own copy.

        What an engine before it has written stays, but is none of this one's last words.
        """
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._begin = os.fstat(descriptor).st_size
        return descriptor

    def tail(self, lines: int = 20) -> str:
        """The last lines, or a word that there are none."""
        text = self._last(_TAIL_BYTES).decode(errors="replace")
        return "\n".join(text.splitlines()[-lines:]) or "(it wrote nothing)"

    def names_gpu(self) -> bool:
        """Whether this engine said at its start that it found a GPU (discover/types.go).

        One line for each device, `library=CUDA`, `ROCm`, `Metal`, …; or a single `library=cpu`.
        """
        try:
            with self.path.open("rb") as file:
                file.seek(self._begin)
                return _COMPUTE.search(file.read(_HEAD_BYTES)) is not None
        except FileNotFoundError:
            return False

    def trim(self) -> None:
        """Once the file is over its bound: its last part goes to `engine.log.1`, the rest away.

        Lines that are written in between are lost.
        """
        try:
            if self.path.stat().st_size > self._max_bytes:
                self._older.write_bytes(self._last(self._max_bytes // 4))
                self._older.chmod(0o600)
                os.truncate(self.path, 0)
                self._begin = 0
        except FileNotFoundError:
            return

    def _last(self, count: int) -> bytes:
        try:
            with self.path.open("rb") as file:
                file.seek(max(self._begin, file.seek(0, os.SEEK_END) - count))
                return file.read(count)
        except FileNotFoundError:
            return b""
