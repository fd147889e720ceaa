"""Which requests unload a model."""

from typing import Any

import pytest

from serve.web.unload import is_unload


@pytest.mark.parametrize(
    ("route", "native", "is_one"),
    [
        ("/api/generate", {"keep_alive": 0}, True),
        ("/api/generate", {"keep_alive": "0"}, True),
        ("/api/generate", {"keep_alive": "0s", "prompt": ""}, True),
        ("/api/chat", {"keep_alive": 0.0, "messages": []}, True),
        ("/api/generate", {"keep_alive": 0, "prompt": "hi"}, False),
        ("/api/chat", {"keep_alive": 0, "messages": [{}]}, False),
        ("/api/generate", {"keep_alive": "5m"}, False),
        ("/api/generate", {"keep_alive": False}, False),
        ("/api/generate", {}, False),
        ("/api/embed", {"keep_alive": 0}, False),
    ],
)
def test_nothing_to_say_and_nothing_to_keep(
    route: str,
    native: dict[str, Any],
    is_one: bool,  # noqa: FBT001
) -> None:
    assert is_unload(route, native) is is_one
