"""The simulation of the store: small traces whose hit ratios are known."""

import json
import lzma
from pathlib import Path

import pytest

from serve.bench.trace import POLICIES, Eviction, generated, read, replay, trace
from serve.cli import REFUSED, main
from serve.errors import ConfigError

MOONCAKE = [
    {"timestamp": 0, "input_length": 9, "output_length": 50, "hash_ids": [0, 1]},
    {"timestamp": 1500, "input_length": 9, "output_length": 50, "hash_ids": [0, 2]},
    {"timestamp": 2000, "input_length": 9, "output_length": 50, "hash_ids": [0, 1]},
    {"timestamp": 9000, "input_length": 8, "output_length": 50, "hash_ids": [0, 1]},
]
AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:46.6805900,374,44
2023-11-16 18:15:50.9951690,396,109
2023-11-16 18:15:51.2224670,374,44
"""


@pytest.fixture
def mooncake(tmp_path: Path) -> Path:
    path = tmp_path / "m.jsonl.xz"
    path.write_bytes(lzma.compress("\n".join(map(json.dumps, MOONCAKE)).encode()))
    return path


@pytest.mark.parametrize("eviction", POLICIES)
def test_a_store_that_holds_all_answers_every_repetition(
    mooncake: Path, eviction: Eviction
) -> None:
    asked = read(mooncake)
    assert [one.at_s for one in asked] == [0, 1.5, 2, 9]
    assert {one.size for one in asked} == {200}
    assert replay(asked, eviction, 1 << 20) == 0.25
    assert replay(asked, eviction, 100) == 0


def test_old_answers_are_none_by_the_traces_own_clock(mooncake: Path, tmp_path: Path) -> None:
    late = MOONCAKE[0] | {"timestamp": 1e9 * 1000}
    path = tmp_path / "late.jsonl"
    path.write_text(json.dumps(MOONCAKE[0]) + "\n" + json.dumps(late) + "\n")
    assert replay(read(path), "lru", 1 << 20) == 0


def test_a_csv_of_lengths(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(AZURE)
    asked = read(path)
    assert [round(one.at_s, 2) for one in asked] == [0, 4.31, 4.54]
    assert asked[0].key == asked[2].key != asked[1].key
    assert replay(asked, "tiny_lfu", 1 << 20) == pytest.approx(1 / 3)


@pytest.mark.parametrize("text", ["", "{}\n", "a,b\n1,2\n", "no trace\n", '{"hash_ids": 1'])
def test_what_is_no_trace_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text(text)
    with pytest.raises(ConfigError, match="is no trace"):
        read(path)


def test_the_generator_repeats_itself_by_its_seed() -> None:
    assert generated(500, seed=1) == generated(500, seed=1)
    assert generated(500, seed=1) != generated(500, seed=2)


def test_what_is_popular_shifts() -> None:
    asked = generated(4_000, seed=1, keys=100, shift_every=2_000)
    first = [one.key for one in asked[:2_000]]
    later = [one.key for one in asked[2_000:]]
    assert max(set(first), key=first.count) != max(set(later), key=later.count)


def test_more_capacity_answers_more(mooncake: Path) -> None:
    said: list[str] = []
    found = trace("", requests=3_000, seed=3, say=said.append)
    assert found["requests"] == 3_000
    for ratios in found["hit_ratio"].values():
        assert ratios["0.01"] < ratios["0.25"] <= ratios["1"] <= found["best_hit_ratio"]
    assert len(said) == 7


def test_the_command_ends_in_one_object(mooncake: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "trace", "--json", "--trace", str(mooncake)]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (found["source"], found["distinct"]) == ("m.jsonl.xz", 3)
    assert set(found["hit_ratio"]) == {"lru", "tiny_lfu"}
    assert main(["bench", "trace", "--trace", "/nonexistent"]) == REFUSED
