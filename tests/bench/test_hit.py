"""The comparison of hits: the load generator, and what can't be measured. The rest: tests/cli."""

import shutil
from pathlib import Path

import pytest

from serve.bench.figures import p50_ms, p99_ms, rounded
from serve.bench.hit import hit
from serve.bench.target import Target
from serve.bench.wrk import Wrk
from serve.cli import REFUSED, main
from serve.errors import ConfigError
from tests.bench.places import serving

needs_wrk = pytest.mark.skipif(shutil.which("wrk") is None, reason="no wrk on this machine")


@needs_wrk
def test_wrk_posts_the_bodies_in_turn() -> None:
    bodies = [b'{"prompt": "%d"}' % number for number in range(3)]
    with serving() as server:
        wrk = Wrk(bodies, {"Authorization": "Bearer k"})
        load = wrk.run(server.url + "/api/generate", connections=2, seconds=1)
        assert set(server.prompts) == {"0", "1", "2"}
        assert server.keys == {"Bearer k"}
    assert load.requests > 10
    assert 0 < load.p50_us <= load.p99_us
    assert load.per_s > 0


@needs_wrk
def test_failed_requests_are_no_figures() -> None:
    with serving() as server, pytest.raises(ConfigError, match=r"\d+ of \d+ requests to .* failed"):
        Wrk([b"no json"], {}).run(server.url + "/api/generate", connections=1, seconds=1)


def test_no_wrk_is_said_with_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match=r"wrk.*apt install wrk.*brew install wrk"):
        Wrk([], {})


def test_replicas_elsewhere_can_not_be_measured() -> None:
    elsewhere = Target("http://127.0.0.1:1", "m", {}, [], [], None)
    with pytest.raises(ConfigError, match="not on this machine"):
        hit(elsewhere, rounds=1, seconds=1, say=lambda _: None)


def test_the_command_refuses_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "hit", "--json", "--url", "http://127.0.0.1:1"]) == REFUSED
    captured = capsys.readouterr()
    assert captured.err.startswith("no Rayllama at http://127.0.0.1:1")
    assert captured.out == ""


def test_the_statistics() -> None:
    seconds = [number / 1000 for number in range(1, 101)]
    assert p50_ms(seconds) == pytest.approx(50.5)
    assert p99_ms(seconds) == pytest.approx(99.01)
    assert rounded({"a": 1.23456, "b": 1234.56, "c": None, "d": 7}) == {
        "a": 1.2346,
        "b": 1234.6,
        "c": None,
        "d": 7,
    }
