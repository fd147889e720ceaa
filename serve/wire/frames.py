"""The lines of a native stream: cutting bytes into lines, and what a last line says."""

import msgspec

ERROR_START = b'{"error"'


class Done(msgspec.Struct, frozen=True):
    """The figures of a final line; durations in nanoseconds, 0 where the line has none."""

    done: bool
    model: str = ""
    done_reason: str = ""
    total_duration: int = 0
    load_duration: int = 0
    prompt_eval_count: int = 0
    prompt_eval_duration: int = 0
    eval_count: int = 0
    eval_duration: int = 0


class _Over(msgspec.Struct, frozen=True):
    done: bool = False


class _Error(msgspec.Struct, frozen=True):
    error: str


class Lines:
    """Cuts a stream of bytes into whole lines, each with its newline."""

    def __init__(self) -> None:
        self._rest: list[bytes] = []

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that `data` completes."""
        end = data.rfind(b"\n") + 1
        if not end:
            if data:
                self._rest.append(data)
            return []
        complete = b"".join([*self._rest, data[:end]])
        self._rest = [data[end:]] if data[end:] else []
        return [line + b"\n" for line in complete[:-1].split(b"\n")]

    def rest(self) -> bytes:
        """What came after the last newline."""
        return b"".join(self._rest)


def last_line(data: bytes) -> bytes:
    """The last of some whole lines."""
    return data[data.rfind(b"\n", 0, -1) + 1 :]


def is_over(data: bytes) -> bool:
    """Does the last of these whole lines say that nothing follows it?"""
    try:
        return _OVER.decode(last_line(data)).done
    except msgspec.MsgspecError:
        return False


def is_error(line: bytes) -> bool:
    """Is this the line that ends a stream that went wrong?"""
    return line.startswith(ERROR_START)


def error_text(line: bytes) -> str:
    """What an error line, or a native error body, says; the bytes themselves if they aren't one."""
    try:
        return _ERROR.decode(line).error
    except msgspec.MsgspecError:
        return line.decode(errors="replace").strip()


def parse_last(line: bytes) -> Done | None:
    """The figures of a line with `"done":true`; None for every other line."""
    if b'"done":true' not in line:
        return None
    try:
        last = _DONE.decode(line)
    except msgspec.MsgspecError:
        return None
    return last if last.done else None


_DONE = msgspec.json.Decoder(Done)
_OVER = msgspec.json.Decoder(_Over)
_ERROR = msgspec.json.Decoder(_Error)
