"""What the real HAProxy does with a request, having been taught."""

import http.client
import socket
import time
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serve.edge import rules
from serve.edge.key import edge_key
from serve.edge.rules import body_limit
from tests.edge.entries import JSON, KEY, NDJSON, do, plant, planted
from tests.edge.proxy import Proxy

BODY = b'{"model":"m","prompt":"why?"}'
EXAMPLES = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
TRICKY = st.sampled_from(
    [
        *(b"\0", b"\n", b"\r\n", b"\t", b" ", b"  ", b"\x7f", b"\xff\xfe", "é".encode()),
        *(b"%", b"%0A", b"%%", b"%[env(HOME)]", b"+", b"?", b"?a+b"),
        *(b"'", b'"', b"\\", b"<<", b";", b"|", b"}", b"# "),
    ]
)
BYTES = st.lists(TRICKY | st.binary(max_size=20), max_size=12).map(b"".join)

Asker = tuple[bytes, bytes, bytes, bytes]
"""A query, and the values of three headers of the key."""


def headers_of_asker(proxy: Proxy, asker: Asker) -> list[tuple[bytes, bytes]]:
    names = (b"accept", b"authorization", b"x-api-key")
    return [(b"host", b"127.0.0.1:%d" % proxy.port), *zip(names, asker[1:], strict=True)]


def bare(asker: Asker) -> list[bytes]:
    """Without the blanks around a header's value, which don't belong to it."""
    return [part.strip(b" \t") for part in asker]


@pytest.fixture(autouse=True)
def _leased(proxy: Proxy) -> None:
    proxy.lease(50)


@EXAMPLES
@given(body=BYTES)
def test_python_makes_the_key_that_haproxy_makes(proxy: Proxy, body: bytes) -> None:
    body = body.replace(b"\0", b"") or b"x"
    planted(proxy, body)
    assert proxy.ask("/api/chat", body).is_edge


@EXAMPLES
@given(body=BYTES, rest=BYTES)
def test_a_body_that_only_begins_like_another_is_another(
    proxy: Proxy, body: bytes, rest: bytes
) -> None:
    body = body.replace(b"\0", b"") or b"x"
    planted(proxy, body)
    for other in (body + b"\0" + rest, body + b"\0" * 9, body + b"\n" + rest, b"\n" + body):
        assert not proxy.ask("/api/chat", other).is_edge


VALUES = st.text(st.sampled_from("a1 \t%\"'\\|;<>{}[]()$,=:?+&\x80é\x7f"), max_size=6).map(
    lambda text: text.encode("latin-1")
)
QUERIES = st.text(st.sampled_from("a1%\"'\\|;<>{}[]()$,=:?+&"), max_size=6).map(str.encode)
ASKERS = st.tuples(QUERIES, VALUES, VALUES, VALUES)


@EXAMPLES
@given(one=ASKERS, other=ASKERS)
def test_nobody_gets_what_belongs_to_another(proxy: Proxy, one: Asker, other: Asker) -> None:
    key = edge_key("/api/chat", one[0], headers_of_asker(proxy, one), BODY)
    plant(proxy, key)
    for asker in (one, other):
        headers = [*headers_of_asker(proxy, asker), (b"content-length", b"%d" % len(BODY))]
        query = b"?" + asker[0] if asker[0] else b""
        lines = [b"POST /api/chat%b HTTP/1.1" % query, *map(b": ".join, headers)]
        said = proxy.raw(b"\r\n".join(lines) + b"\r\n\r\n" + BODY)
        if key is None or bare(asker) != bare(one):
            assert b"tier=edge" not in said
        else:
            assert b"tier=edge" in said or said.startswith(b"HTTP/1.1 400")


@EXAMPLES
@given(answer=BYTES)
@pytest.mark.parametrize("content_type", [JSON, NDJSON, b"application/json", b"text/event-stream"])
def test_an_answer_comes_out_as_it_went_in(
    proxy: Proxy, answer: bytes, content_type: bytes
) -> None:
    answer = answer.replace(b"\0", b"") or b"\n"
    planted(proxy, BODY, answer, content_type=content_type)
    said = proxy.ask("/api/chat", BODY)
    assert said.is_edge
    assert said.body == answer
    assert said.headers["content-type"] == content_type.decode()


def test_a_hit_looks_like_any_hit(proxy: Proxy) -> None:
    planted(proxy, BODY)
    said = proxy.ask("/api/chat", BODY, {"x-request-id": "mine"})
    assert said.status == 200
    assert said.headers["age"] == "5"
    assert said.headers["x-request-id"] == "mine"
    assert said.headers["cache-status"] == (
        f'rayllama; hit; ttl=3595; key="{KEY.hex()}"; detail=edge'
    )
    ids = {proxy.ask("/api/chat", BODY).headers["x-request-id"] for _ in range(3)}
    assert len(ids) == 3


def test_an_answer_from_the_future_is_none(proxy: Proxy) -> None:
    """The clock was set back."""
    planted(proxy, BODY, age_s=-30)
    assert not proxy.ask("/api/chat", BODY).is_edge
    planted(proxy, BODY, age_s=-0.5)
    assert proxy.ask("/api/chat", BODY).headers["age"] == "0"


def test_an_answer_that_never_ends_does_end(proxy: Proxy) -> None:
    planted(proxy, BODY, left_s=1e12)
    assert proxy.ask("/api/chat", BODY).is_edge


@pytest.mark.parametrize("name", [name for name in rules.KEYED if name != "host"])
def test_who_asks_is_in_the_key(proxy: Proxy, name: str) -> None:
    planted(proxy, BODY, headers={name: "Bearer one"})
    assert proxy.ask("/api/chat", BODY, {name: "Bearer one"}).is_edge
    for other in ("Bearer two", "bearer one", "Bearer one ,", ""):
        assert not proxy.ask("/api/chat", BODY, {name: other}).is_edge
    assert not proxy.ask("/api/chat", BODY).is_edge
    twice = (
        b"POST /api/chat HTTP/1.1\r\nhost: 127.0.0.1:%d\r\n%b: Bearer %b\r\n%b: Bearer %b\r\n"
        b"accept-encoding: identity\r\ncontent-length: %d\r\n\r\n%b"
    )
    header = name.encode()
    for first, last, is_edge in ((b"one", b"two", False), (b"two", b"one", True)):
        asked = twice % (proxy.port, header, first, header, last, len(BODY), BODY)
        assert (b"tier=edge" in proxy.raw(asked)) == is_edge  # as the ingress: the last counts


def test_the_name_that_is_called_is_in_the_key(proxy: Proxy) -> None:
    planted(proxy, BODY)
    assert proxy.ask("/api/chat", BODY).is_edge
    assert not proxy.ask("/api/chat", BODY, {"host": "evil.example"}).is_edge
    assert not proxy.ask("/api/chat", BODY, {"host": f"localhost:{proxy.port}"}).is_edge


def test_headers_can_not_be_made_to_run_together(proxy: Proxy) -> None:
    planted(proxy, BODY, headers={"accept": "a", "authorization": "b"})
    assert not proxy.ask("/api/chat", BODY, {"accept": "a 1 b"}).is_edge
    assert not proxy.ask("/api/chat", BODY, {"accept": "a%0A1 b"}).is_edge


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/api/chat?x=1", {}),
        ("/api/chat/", {}),
        ("/api/generate", {}),
        ("/api/%63hat", {}),
        ("/api/pull", {}),
        ("/api/chat", {"cache-control": "no-cache"}),
        ("/api/chat", {"pragma": "no-cache"}),
        ("/api/chat", {"content-encoding": "gzip"}),
        ("/api/chat", {"if-none-match": "*"}),
        ("/api/chat", {"range": "bytes=0-1"}),
        ("/api/chat", {"origin": "http://localhost"}),
        ("/api/chat", {"X-Rayllama-Anything": "1"}),
        ("/api/chat", {"transfer-encoding": "chunked"}),
    ],
)
def test_all_else_goes_on_untouched(proxy: Proxy, path: str, headers: dict[str, str]) -> None:
    planted(proxy, BODY)
    is_chunked = "transfer-encoding" in headers
    sent: Any = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY) if is_chunked else BODY
    said = proxy.ask(path, sent, headers)
    assert said.body == b"ingress"
    arrived, with_headers, body = proxy.ingress.asked[-1]
    assert (arrived, body) == (path, BODY)
    assert {name.lower() for name, _ in with_headers} - {"connection"} == {
        "host",
        "accept-encoding",
        *(name.lower() for name in headers),
        *(() if is_chunked else ("content-length",)),
    }


def test_another_verb_goes_on(proxy: Proxy) -> None:
    planted(proxy, BODY)
    assert not proxy.ask("/api/chat", BODY, method="PUT").is_edge


def test_the_query_is_in_the_key(proxy: Proxy) -> None:
    planted(proxy, BODY, query=b"a=b")
    assert proxy.ask("/api/chat?a=b", BODY).is_edge
    assert not proxy.ask("/api/chat?a=c", BODY).is_edge
    assert not proxy.ask("/api/chat", BODY).is_edge


@pytest.mark.parametrize("size", [body_limit(16384), body_limit(16384) + 1, 15_000, 40_000])
def test_a_body_fits_or_goes_on(proxy: Proxy, size: int) -> None:
    planted(proxy, b"x" * size)
    said = proxy.ask("/api/chat", b"x" * size)
    assert said.is_edge == (size <= body_limit(16384))
    assert said.is_edge or proxy.ingress.asked[-1][2] == b"x" * size


def test_a_body_beside_long_headers_goes_on_whole(proxy: Proxy) -> None:
    body, long = b"x" * body_limit(16384), {"x-long": "y" * 7000}
    planted(proxy, body)
    assert not proxy.ask("/api/chat", body, long).is_edge
    assert proxy.ingress.asked[-1][2] == body


def test_the_longest_answer_fits(proxy: Proxy) -> None:
    answer = b'"' + b"x" * (body_limit(16384) - 2) + b'"'
    for content_type in (JSON, b"text/event-stream"):
        planted(proxy, BODY, answer, content_type=content_type)
        assert proxy.ask("/api/chat", BODY).body == answer


def test_without_a_lease_nothing_is_answered(proxy: Proxy) -> None:
    planted(proxy, BODY)
    for seconds in (0, -1, rules.LEASE_MS / 1000 + 5):
        proxy.lease(seconds)
        assert not proxy.ask("/api/chat", BODY).is_edge
    proxy.lease(0.3)
    assert proxy.ask("/api/chat", BODY).is_edge
    ended = time.time() + 0.4
    while proxy.ask("/api/chat", BODY).is_edge:
        assert time.time() < ended


def test_a_body_that_takes_its_time_outlives_no_lease(proxy: Proxy) -> None:
    planted(proxy, BODY)
    assert proxy.ask("/api/chat", BODY).is_edge
    head = b"POST /api/chat HTTP/1.1\r\nhost: 127.0.0.1:%d\r\ncontent-length: %d\r\n\r\n"
    with socket.create_connection(("127.0.0.1", proxy.port)) as slow:
        slow.settimeout(5)
        slow.sendall(head % (proxy.port, len(BODY)) + BODY[:5])
        asked = len(proxy.ingress.asked)
        proxy.lease(-1)
        slow.sendall(BODY[5:])
        said = http.client.HTTPResponse(slow)
        said.begin()
        assert said.read() == b"ingress"
    assert len(proxy.ingress.asked) == asked + 1


def test_what_has_ended_is_not_answered(proxy: Proxy) -> None:
    planted(proxy, BODY, left_s=-0.01)
    assert not proxy.ask("/api/chat", BODY).is_edge


def test_hits_are_counted_by_key(proxy: Proxy) -> None:
    body = b"counted"
    key = planted(proxy, body)
    for _ in range(3):
        proxy.ask("/api/chat", body)
    assert do(proxy) == []
    assert f"key={key} " in proxy.admin(f"show table {rules.TABLE}")
    (line,) = [
        line for line in proxy.admin(f"show table {rules.TABLE}").splitlines() if key in line
    ]
    assert line.endswith("http_req_cnt=3")


def test_a_body_that_never_comes_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rules, "BODY_WITHIN_S", 1)
    with Proxy() as impatient:
        # In this process only, so the launcher's part is done here.
        from serve.edge.launcher import FOLDER, _prepare  # noqa: PLC0415

        _, path = _prepare(impatient.config, impatient.folder / FOLDER)
        impatient.config.write_text(path.read_text())
        impatient.start()
        maps = impatient.folder / FOLDER / "lease.map"
        impatient.admin(f"set map {maps} lease {int((time.time() + 50) * 1000)}")
        head = b"POST /api/chat HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nslow"
        assert impatient.raw(head).startswith(b"HTTP/1.1 408 ")
