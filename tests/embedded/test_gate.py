"""Which hosts and origins an engine answers."""

import pytest

from serve.embedded.gate import Gate, Passed
from serve.embedded.replies import Whole


def check(method: str = "GET", *, origins: tuple[str, ...] = (), **headers: str) -> Passed | Whole:
    return Gate(origins).check(method, {"host": "127.0.0.1:1"} | headers)


@pytest.mark.parametrize(
    "host",
    [
        "",
        "localhost",
        "LOCALHOST:80",
        "127.0.0.1:1",
        "[::1]:80",
        "::1",
        "10.1.2.3",
        "0.0.0.0",
        "a.local",
    ],
)
def test_hosts_at_home_pass(host: str) -> None:
    assert check(host=host) == Passed()


@pytest.mark.parametrize("host", ["evil.example", "8.8.8.8:80", "local", "localhost.example:1"])
def test_other_hosts_do_not(host: str) -> None:
    refused = check(host=host)
    assert isinstance(refused, Whole)
    assert (refused.status, refused.body) == (403, b"")


@pytest.mark.parametrize(
    "origin",
    ["http://localhost:3000", "https://127.0.0.1", "app://x", "tauri://y", "http://127.0.0.1:1"],
)
def test_origins_at_home_pass(origin: str) -> None:
    assert isinstance(check(origin=origin), Passed)


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "http://localhost.evil.example", "null", "http://localhos"]
)
def test_other_origins_do_not(origin: str) -> None:
    refused = check(origin=origin)
    assert isinstance(refused, Whole)
    assert refused.status == 403


def test_configured_origins_pass_with_their_patterns() -> None:
    assert isinstance(check(origin="https://a.example", origins=("https://a.example",)), Passed)
    assert isinstance(check(origin="https://a.b", origins=("*",)), Passed)


def test_an_allowed_origin_is_told_so() -> None:
    passed = check(origin="http://localhost:3000")
    assert isinstance(passed, Passed)
    assert (b"access-control-allow-origin", b"http://localhost:3000") in passed.headers


def test_options_without_an_origin_are_answered_for_names_only() -> None:
    answered = check("OPTIONS", host="localhost")
    assert isinstance(answered, Whole)
    assert answered.status == 204
    assert check("OPTIONS") == Passed()
