"""One HTTP connection in plain sockets, for latencies: a client library would add its own."""

import socket
from collections.abc import Mapping
from time import perf_counter
from typing import Self
from urllib.parse import urlsplit

from msgspec import Struct


class Answer(Struct, frozen=True):
    """An answer, and when it came. `first_s`: until the first byte of its body; `whole_s`: all."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    first_s: float
    whole_s: float

    @property
    def verdict(self) -> str:
        """What Rayllama's cache said, like `hit; tier=near`."""
        return self.headers.get("x-rayllama-cache", "")


class Connection:
    """Kept alive; one request at a time."""

    def __init__(self, url: str, headers: Mapping[str, str] | None = None) -> None:
        parts = urlsplit(url)
        self._address = parts.hostname or "127.0.0.1", parts.port or 80
        self._host = parts.netloc
        self._extra = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
        self._socket: socket.socket | None = None

    def __enter__(self) -> Self:
        self._socket = self._connected()
        return self

    def _connected(self) -> socket.socket:
        fresh = socket.create_connection(self._address, timeout=120)
        fresh.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return fresh

    def __exit__(self, *_: object) -> None:
        if self._socket:
            self._socket.close()
            self._socket = None

    def ask(self, path: str, body: bytes = b"", *, method: str = "POST") -> Answer:
        """Send a request and read its whole answer. Raises `OSError`.

        A proxy that reloads closes idle connections, so the first failure before any byte of an
        answer gets a fresh connection (RFC 9112 §9.3.1); what is asked here may be asked twice.
        """
        head = f"{method} {path} HTTP/1.1\r\nHost: {self._host}\r\n{self._extra}"
        request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
        if self._socket is None:
            raise OSError("not connected")
        try:
            began, data = _begin(self._socket, request)
        except OSError:
            self._socket.close()
            self._socket = self._connected()
            began, data = _begin(self._socket, request)
        wire = self._socket
        while b"\r\n\r\n" not in data:
            data += _read(wire)
        raw, _, rest = data.partition(b"\r\n\r\n")
        status, headers = parse_head(raw)
        chunked = headers.get("transfer-encoding") == "chunked"
        length = int(headers.get("content-length", "0"))
        while not rest and (chunked or length):
            rest = _read(wire)
        first = perf_counter() - began
        while not (rest.endswith(b"0\r\n\r\n") if chunked else len(rest) >= length):
            rest += _read(wire)
        whole = perf_counter() - began
        return Answer(status, headers, unchunked(rest) if chunked else rest, first, whole)


def _begin(wire: socket.socket, request: bytes) -> tuple[float, bytes]:
    """Send it: when that was, and the answer's first bytes."""
    began = perf_counter()
    wire.sendall(request)
    return began, _read(wire)


def _read(wire: socket.socket) -> bytes:
    data = wire.recv(65536)
    if not data:
        raise OSError("the connection was closed in the middle of an answer")
    return data


def parse_head(raw: bytes) -> tuple[int, dict[str, str]]:
    """Status and headers, names in lower case."""
    first, *lines = raw.decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in lines)
    return int(first.split()[1]), {name.lower(): value.strip() for name, _, value in pairs}


def unchunked(data: bytes) -> bytes:
    """The body that came in these chunks, the last one too."""
    parts = []
    while data:
        size, _, data = data.partition(b"\r\n")
        length = int(size, 16)
        parts.append(data[:length])
        data = data[length + 2 :]
    return b"".join(parts)
