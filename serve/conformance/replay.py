"""Sending a recorded request, byte for byte, and reading the answer as it was framed."""

import codecs
import json
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

FILES = ("misc", "models", "generate", "chat", "embed", "openai", "capabilities", "anthropic")
"""The files of routes, in the order they were recorded in: later cases rely on earlier ones."""
RECORDINGS = Path(__file__).with_name("recordings")
LONG = "word " * 12_000
_TIMEOUT_S = 60
_ATTEMPTS = 3
"""A model that samples without a limit may ramble on for minutes: then it is asked once more."""


@dataclass(frozen=True)
class Answer:
    """What came back: `framing` is content-length, chunked, until close, no body or cut; `frames`
    the HTTP chunks as they came, or the one body."""

    status: int
    headers: list[tuple[str, str]]
    framing: str
    frames: list[str]

    @property
    def body(self) -> str:
        """All of it."""
        return "".join(self.frames)


@dataclass(frozen=True)
class Case:
    """One recorded exchange; `id` is its file and its name."""

    id: str
    method: str
    path: str
    headers: dict[str, str]
    body: str | None
    recorded: Answer


def cases(*files: str) -> list[Case]:
    """The exchanges of these files, in the order they were recorded in."""
    return [
        _case(file, json.loads(line))
        for file in files
        for line in (RECORDINGS / f"{file}.jsonl").read_text().splitlines()
        if line.strip()
    ]


def _case(file: str, line: dict[str, Any]) -> Case:
    request, response = line["request"], line["response"]
    recorded = Answer(
        status=response["status"],
        headers=[(name, value) for name, value in response["headers"]],
        framing=response["framing"],
        frames=response["frames"],
    )
    return Case(
        id=f"{file}/{line['name']}",
        method=request["method"],
        path=request["path"],
        headers=request["headers"],
        body=request.get("body"),
        recorded=recorded,
    )


def replay(
    url: str, case: Case, *, key: str = "", on_line: Callable[[int], None] | None = None
) -> Answer:
    """The answer of the server at `url`. Raises `OSError`.

    `key` is sent where the recorded request has none of its own. `on_line` is told the number of
    lines after each read, so that a test can break something in the middle.
    """
    for _ in range(_ATTEMPTS - 1):
        with suppress(TimeoutError):
            return _replayed(url, case, key, on_line)
    return _replayed(url, case, key, on_line)


def _replayed(url: str, case: Case, key: str, on_line: Callable[[int], None] | None) -> Answer:
    parts = urlsplit(url)
    with _connected(parts) as connection:
        connection.sendall(_request(case, parts.netloc, key))
        with connection.makefile("rb") as stream:
            return _answer(case.method, _Stream(stream, on_line or (lambda _: None)))


def _connected(parts: SplitResult) -> socket.socket:
    secure = parts.scheme == "https"
    address = parts.hostname or "127.0.0.1", parts.port or (443 if secure else 80)
    plain = socket.create_connection(address, _TIMEOUT_S)
    if not secure:
        return plain
    return ssl.create_default_context().wrap_socket(plain, server_hostname=parts.hostname)


def _request(case: Case, netloc: str, key: str) -> bytes:
    keyed = {"Authorization": f"Bearer {key}"} if key else {}
    headers = {"Host": netloc} | keyed | case.headers | {"Connection": "close"}
    body = (case.body or "").replace("{LONG}", LONG).encode()
    if case.body is not None:
        headers["Content-Length"] = str(len(body))
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"{case.method} {case.path} HTTP/1.1\r\n{head}\r\n".encode() + body


class _Stream:
    def __init__(self, file: Any, on_line: Callable[[int], None]) -> None:
        self._file = file
        self._on_line = on_line
        self._lines = 0

    def line(self) -> bytes:
        return bytes(self._file.readline())

    def exactly(self, size: int) -> bytes:
        return bytes(self._file.read(size))

    def count(self, data: bytes) -> None:
        self._lines += data.count(b"\n")
        self._on_line(self._lines)


def _answer(method: str, stream: _Stream) -> Answer:
    first = stream.line()
    if not first.startswith(b"HTTP/1."):
        raise ConnectionError(f"no HTTP/1 answer: {first[:80]!r}")
    status = int(first.split(b" ", 2)[1])
    headers = list(_headers(stream))
    named = {name.lower(): value for name, value in headers}
    if method == "HEAD" or status in (204, 304):
        return Answer(status, headers, "no body", [])
    if named.get("transfer-encoding") == "chunked":
        frames, complete = _chunks(stream)
        return Answer(status, headers, "chunked" if complete else "cut", frames)
    if "content-length" not in named:
        body = stream.exactly(-1)
        return Answer(status, headers, "until close", [_text(body)] if body else [])
    size = int(named["content-length"])
    body = stream.exactly(size)
    framing = "content-length" if len(body) == size else "cut"
    return Answer(status, headers, framing, [_text(body)] if body else [])


def _text(body: bytes) -> str:
    return body.decode(errors="replace")


def _headers(stream: _Stream) -> Iterator[tuple[str, str]]:
    while line := stream.line().decode("latin-1").strip():
        name, _, value = line.partition(":")
        yield name, value.strip()


def _chunks(stream: _Stream) -> tuple[list[str], bool]:
    frames: list[str] = []
    text = codecs.getincrementaldecoder("utf-8")(errors="replace")  # a proxy may cut a character
    while True:
        try:
            head = stream.line()
        except ConnectionError:
            return frames, False
        if not head:
            return frames, False
        size = int(head.split(b";")[0], 16)
        data = stream.exactly(size)
        stream.line()
        if not size:
            return frames, True
        frames.append(text.decode(data))
        stream.count(data)
