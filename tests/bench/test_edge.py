"""What the comparison with the edge stands on; the rest needs a whole Rayllama."""

import urllib.request

import pytest

from serve.bench import edge
from serve.bench.target import Target
from serve.edge.rules import ODD
from serve.errors import ConfigError
from tests.bench.places import serving


def test_the_bare_application_answers_with_so_many_bytes() -> None:
    with edge._bare(321) as url:
        for _ in range(2):
            with urllib.request.urlopen(url, b'{"prompt":"x"}') as answer:
                assert answer.status == 200
                assert len(answer.read()) == 321


def test_the_header_that_keeps_a_request_from_the_edge_is_one() -> None:
    (name,) = edge.NOT_THE_EDGE
    assert any(odd in name.lower() for odd in ODD)


def test_no_edge_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge, "_SETTLE_S", 0.2)
    with serving("hit; tier=near") as server:
        target = Target(server.url, "smollm2:135m", {}, [], [], None)
        with pytest.raises(ConfigError, match="no edge"):
            edge.edge(target, rounds=1, seconds=1, connections=1, say=lambda _: None)
