"""A pool that grows from nothing, loses a node and shrinks again, on several raylets."""

import pytest

from serve.bench.elastic import elastic

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def test_replicas_come_and_go_and_only_a_dead_nodes_streams_fail() -> None:
    """That it returns says that they came, went, and came back: it waits for each."""
    said: list[str] = []
    figures = elastic(say=said.append)
    assert figures["streams_cut"] == 0
    assert figures["node_death_others_failed"] == 0
    in_flight = figures["node_death_in_flight"]
    assert isinstance(in_flight, int)
    assert in_flight > 0
    assert figures["node_death_failed"] == in_flight
