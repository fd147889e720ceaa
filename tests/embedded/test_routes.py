"""What Go's routers do with paths that are no routes."""

import httpx
import pytest

from serve.embedded.routes import redirect
from tests.embedded.engines import EngineProcess


@pytest.mark.parametrize(
    ("method", "path", "query", "status", "location"),
    [
        ("GET", "/api/tags/", "", 301, b"/api/tags"),
        ("GET", "/api/tags/", "a=b", 301, b"/api/tags?a=b"),
        ("POST", "/api/chat/", "", 307, b"/api/chat"),
        ("POST", "//api/chat", "", 307, b"/api/chat"),
        ("GET", "/api/../api/tags", "", 307, b"/api/tags"),
        ("GET", "/api/./tags//", "", 307, b"/api/tags/"),
        ("GET", "//x\r\nSet-Cookie: a", "", 307, b"/x%0D%0ASet-Cookie%3A%20a"),
    ],
)
def test_paths_are_cleaned(
    method: str, path: str, query: str, status: int, location: bytes
) -> None:
    moved = redirect(method, path, query)
    assert moved is not None
    assert (moved.status, dict(moved.headers)[b"location"]) == (status, location)
    assert bool(moved.body) == (method == "GET")


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/api/tags"), ("GET", "/"), ("GET", "/nope/"), ("GET", "/api/chat/")],
)
def test_other_paths_are_left_alone(method: str, path: str) -> None:
    assert redirect(method, path, "") is None


@pytest.mark.engine
@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [("POST", "/api/tags", "HEAD, GET"), ("GET", "/api/embed", "POST"), ("PUT", "/", "HEAD, GET")],
)
def test_another_verb_is_told_the_right_ones(
    engine: EngineProcess, method: str, path: str, allow: str
) -> None:
    answer = httpx.request(method, engine.url + path, trust_env=False)
    assert (answer.status_code, answer.text) == (405, "405 method not allowed")
    assert answer.headers["allow"] == allow
