"""Base64 as Go decodes it: padded, line breaks ignored, the last bits not looked at."""

_ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_BREAKS = b"\r\n"


def corrupt_at(text: str) -> int | None:
    """Where Go finds the first fault, counted in bytes of UTF-8; None where there is none."""
    data = text.encode()
    odd = data.translate(None, _ALPHABET + _BREAKS)
    end = data.find(odd[:1]) if odd else len(data)
    breaks = data.count(b"\n", 0, end) + data.count(b"\r", 0, end)
    over = (end - breaks) % 4
    if odd:
        return _padding_fault(data, end, over)
    return len(data) - over if over else None


def _padding_fault(data: bytes, at: int, over: int) -> int | None:
    """The fault at or after the first byte that is no letter of base64."""
    if data[at : at + 1] != b"=" or over < 2:
        return at
    after = _after_breaks(data, at + 1)
    if over == 2:
        if after == len(data):
            return after
        if data[after : after + 1] != b"=":
            return after - 1
        after = _after_breaks(data, after + 1)
    return after if after < len(data) else None


def _after_breaks(data: bytes, at: int) -> int:
    while at < len(data) and data[at] in _BREAKS:
        at += 1
    return at
