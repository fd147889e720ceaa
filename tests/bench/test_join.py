"""The benchmark of joined streams, against a server that claims to join. The rest: tests/cli."""

import pytest

from serve.bench.join import join
from serve.bench.target import Target
from serve.errors import ConfigError
from tests.bench.places import serving


def figures(url: str, streams: int) -> dict[str, float | str | None]:
    target = Target(url, "m", {"Authorization": "Bearer k"}, [url], [], None)
    return join(target, streams=streams, say=lambda _: None)


def test_figures_of_a_server_that_says_the_same_to_all() -> None:
    with serving(verdict="miss; reason=joined") as server:
        found = figures(server.url, 12)
        assert server.keys == {"Bearer k"}
        assert len(server.prompts) == 1 + 12 + 9
        assert len(set(server.prompts)) == 3
    assert (found["generations"], found["hung"], found["streams"]) == (1, 0, 12)
    assert found["leader_leaves_ok"] is True


def test_one_stream_is_nothing_to_report() -> None:
    with serving() as server, pytest.raises(ConfigError, match="nothing to report"):
        figures(server.url, 1)
