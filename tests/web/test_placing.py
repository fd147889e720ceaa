"""What of a request concerns its place."""

from typing import Any

import pytest

from serve.web.placing import affinity_of, num_ctx_of


@pytest.mark.parametrize(
    ("options", "tokens"),
    [
        ({"num_ctx": 4096}, 4096),
        ({"num_ctx": 4096.0}, 4096),
        ({"num_ctx": "4096"}, 0),
        ({"num_ctx": True}, 0),
        ({"num_ctx": -1}, 0),
        ({"num_ctx": 1e300}, 0),
        ({"num_ctx": 2**70}, 0),
        ({}, 0),
        (None, 0),
        ([], 0),
    ],
)
def test_a_context_is_a_number_of_tokens(options: Any, tokens: int) -> None:
    assert num_ctx_of({"options": options}) == tokens


def chat(*contents: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": each} for each in contents]}


def test_a_conversation_is_known_by_its_opening() -> None:
    first = affinity_of({}, chat("system", "hello"))
    assert first == affinity_of({}, chat("system", "hello", "answer", "more"))
    assert first != affinity_of({}, chat("system", "goodbye"))
    assert len(first) == 16


def test_a_session_header_wins() -> None:
    session = {b"x-session-id": b"one"}
    assert affinity_of(session, chat("a")) == affinity_of(session, chat("b"))
    assert affinity_of(session, chat("a")) != affinity_of({}, chat("a"))


@pytest.mark.parametrize("native", [{}, {"messages": []}, {"messages": "no"}])
def test_what_is_no_conversation_has_no_affinity(native: dict[str, Any]) -> None:
    assert affinity_of({}, native) == ""


def test_odd_messages_do_no_harm() -> None:
    assert affinity_of({}, {"messages": [1, {"content": ["parts"]}, {"content": "\ud800"}]})
