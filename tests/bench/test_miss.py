"""The comparison of misses, against places that answer at once: what it asks and reports."""

import pytest

from serve.bench.miss import miss
from serve.bench.target import Engine, Target, find
from serve.errors import ConfigError
from tests.bench.places import FakeOllama, serving

FIGURES = {"ttft_added_p50_ms", "ttft_added_p99_ms", "throughput_kept"}


def target(rayllama: FakeOllama, engines: list[Engine]) -> Target:
    return Target(rayllama.url, "smollm2:135m", {}, [], engines, None)


def test_both_ways_are_asked_alike_and_never_the_same() -> None:
    said: list[str] = []
    with serving("miss; reason=cold") as rayllama, serving() as engine:
        engines = [Engine(engine.url, 2)]
        figures = miss(target(rayllama, engines), samples=5, rounds=2, say=said.append)
    assert set(figures) >= FIGURES
    assert figures["slots"] == 2
    assert len(rayllama.prompts) == len(engine.prompts) == 3 + 5 + 2 * 2 * 2
    assert len({*rayllama.prompts, *engine.prompts}) == 2 * len(engine.prompts)
    assert said


def test_a_hit_is_no_miss() -> None:
    with serving("hit; tier=near") as rayllama, serving() as engine:
        measured = target(rayllama, [Engine(engine.url, 1)])
        with pytest.raises(ConfigError, match="was a hit"):
            miss(measured, samples=1, rounds=1, say=lambda _: None)


def test_without_an_engine_here_it_says_so() -> None:
    with serving() as rayllama, pytest.raises(ConfigError, match="--engine URL"):
        miss(target(rayllama, []), samples=1, rounds=1, say=lambda _: None)


def test_the_first_model_that_generates_is_chosen() -> None:
    with serving() as rayllama:
        found = find(rayllama.url, "", {}, engine="http://127.0.0.1:9")
        assert found.model == "smollm2:135m"
        assert found.engines == [Engine("http://127.0.0.1:9", 1)]
        assert (found.ingress_urls, found.cluster) == ([], None)
        assert find(rayllama.url, "other:1b", {}).model == "other:1b"


def test_nothing_there_is_said_with_the_remedy() -> None:
    with pytest.raises(ConfigError, match=r"no Rayllama at http://127.0.0.1:1 .*make run"):
        find("http://127.0.0.1:1", "", {})
