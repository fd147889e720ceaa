"""One connection: framing, times, and connections that end too soon."""

import json
import socket
import threading

import pytest

from serve.bench.wire import Connection
from tests.bench.places import serving


def test_a_whole_answer_and_a_streamed_one_on_one_connection() -> None:
    with serving("miss; reason=cold") as server, Connection(server.url) as connection:
        tags = connection.ask("/api/tags", method="GET")
        assert (tags.status, tags.verdict) == (200, "")
        assert len(json.loads(tags.body)["models"]) == 2
        answer = connection.ask("/api/generate", b'{"prompt": "x"}')
    assert answer.verdict == "miss; reason=cold"
    assert [json.loads(line)["done"] for line in answer.body.splitlines()] == [False, True]
    assert 0 < answer.first_s <= answer.whole_s


def test_extra_headers_go_with_every_request() -> None:
    headers = {"Authorization": "Bearer k"}
    with serving() as server, Connection(server.url, headers) as connection:
        connection.ask("/api/generate", b'{"prompt": "x"}')
        assert server.keys == {"Bearer k"}


@pytest.mark.parametrize("piece", [1, 7, 4096])
def test_framing_does_not_depend_on_how_bytes_arrive(piece: int) -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunks = b"3\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\n"
    assert _asked(head + chunks, piece) == b"abc0123456789"


def test_an_answer_cut_short_is_an_error() -> None:
    with pytest.raises(OSError, match="closed in the middle"):
        _asked(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc", 4096)


def test_nobody_listens() -> None:
    with pytest.raises(OSError, match="refused"), Connection("http://127.0.0.1:1"):
        raise AssertionError


def _asked(raw: bytes, piece: int) -> bytes:
    """What a client reads of `raw`, sent in pieces of that size before the connection ends."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            client, _ = listener.accept()
            with client:
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                client.recv(4096)
                for start in range(0, len(raw), piece):
                    client.sendall(raw[start : start + piece])

        thread = threading.Thread(target=answer)
        thread.start()
        try:
            with Connection(f"http://127.0.0.1:{listener.getsockname()[1]}") as connection:
                return connection.ask("/").body
        finally:
            thread.join()
