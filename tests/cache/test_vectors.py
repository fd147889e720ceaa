"""Vectors as float32, printed again as an engine printed them: on recordings, and on any number."""

import json

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.cache.vectors import (
    MAX_INPUTS,
    Vector,
    asking_for,
    join,
    pack,
    split,
    texts_of,
    unpack,
)
from serve.conformance.replay import RECORDINGS as RECORDED
from serve.wire.gojson import number

RECORDINGS = RECORDED / "embed.jsonl"


def recorded() -> list[tuple[str, list[str], bytes]]:
    """Name, inputs and body of each answer with vectors that a real Ollama gave."""
    answers = []
    for line in RECORDINGS.read_text().splitlines():
        case = json.loads(line)
        request, response = case["request"], case["response"]
        if request["path"] == "/api/embed" and response["status"] == 200:
            texts = texts_of(json.loads(request["body"]))
            body = "".join(response["frames"]).encode()
            if texts and b"[]" not in body:
                answers.append((case["name"], texts, body))
    return answers


@pytest.mark.parametrize(("name", "texts", "body"), recorded())
def test_what_ollama_printed_is_printed_again(name: str, texts: list[str], body: bytes) -> None:
    vectors = split(body, texts)
    assert vectors is not None
    assert not any(vector.is_text for vector in vectors)
    answer = json.loads(body)
    assert join(answer["model"], vectors) == body
    assert sum(vector.tokens for vector in vectors) == answer["prompt_eval_count"]
    packed = [pack(vector) for vector in vectors]
    assert [unpack([line]) for line in packed] == vectors
    assert sum(map(len, packed)) < 0.4 * len(body)


def test_the_recordings_are_there() -> None:
    assert len(recorded()) >= 8


def go(value: np.float32) -> bytes:
    """A float32 as Go prints it, by numpy's own shortest form."""
    return number(float(str(value))).encode()


floats = st.floats(width=32, allow_nan=False, allow_infinity=False).map(np.float32)
"""Of -0 the sign is lost in reading: `[-0]` stays text."""


@given(st.lists(floats, min_size=1, max_size=40))
def test_any_float32_comes_back_as_go_prints_it(values: list[np.float32]) -> None:
    body = b'{"model":"m","embeddings":[[%b]],"prompt_eval_count":3}' % b",".join(map(go, values))
    vectors = split(body, ["x"])
    assert vectors is not None
    assert join("m", vectors) == body
    has_negative_zero = b"-0" in map(go, values)
    assert vectors[0].is_text is has_negative_zero
    if not has_negative_zero:
        assert vectors[0].data == np.array(values, "<f4").tobytes()


@pytest.mark.parametrize(
    "printed", ["0.1000", "1e-3", "1.0", "0.12345678901234", "1E5", "0.10000000149", "1, 2", "1e39"]
)
def test_what_is_printed_otherwise_is_kept_as_text(printed: str) -> None:
    body = b'{"model":"m","embeddings":[[0.1],[%b]]}' % printed.encode()
    vectors = split(body, ["x", "y"])
    assert vectors is not None
    assert [vector.is_text for vector in vectors] == [False, True]
    assert join("m", vectors) == body


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'{"error":"x"}',
        b'{"model":"m","embeddings":[[1],[2]]}',
        b'{"model":"m","embeddings":[[]]}',
        b'{"model":"m","embeddings":[["1"]]}',
        b'{"model":"m","embeddings":[[null]]}',
        b'{"model":"m","embeddings":[1]}',
        b'{"model":"m","embeddings":[[1]],"more":1}',
        b'{"model":"m", "embeddings":[[1]]}',
        b'{"embeddings":[[1]],"model":"m"}',
        b'{"model":"m","embeddings":[[1]],"total_duration":0}',
        b'{"model":"m","embeddings":[[1]]}\n',
        b'{"model":"\\u006d","embeddings":[[1]]}',
        b'{"model":"m","embeddings":[[1]]',
        b'{"model":"m\xff","embeddings":[[1]]}',
    ],
)
def test_what_is_not_made_of_its_parts_is_not_taken_apart(body: bytes) -> None:
    assert split(body, ["x"]) is None


def vector(
    data: bytes = b"[1]", *, is_text: bool = True, tokens: int = 1, total: int = 0, load: int = 0
) -> Vector:
    return Vector(data, is_text, tokens, total, load)


def test_the_times_are_those_of_the_longest_call() -> None:
    made = join("m", [vector(total=5, load=4), vector(total=9, load=1), vector(total=7, load=7)])
    assert made == (
        b'{"model":"m","embeddings":[[1],[1],[1]],'
        b'"total_duration":9,"load_duration":1,"prompt_eval_count":3}'
    )
    assert join("m<", [vector(tokens=0)]) == rb'{"model":"m\u003c","embeddings":[[1]]}'


@given(st.lists(st.text(max_size=30), min_size=1, max_size=20), st.integers(0, 10_000))
def test_the_shares_add_up_to_the_count(texts: list[str], count: int) -> None:
    printed = b",".join([b"[0.5]"] * len(texts))
    figure = b',"prompt_eval_count":%d' % count if count else b""
    vectors = split(b'{"model":"m","embeddings":[%b]%b}' % (printed, figure), texts)
    assert vectors is not None
    assert sum(vector.tokens for vector in vectors) == count
    assert all(vector.tokens >= 0 for vector in vectors)


def test_a_longer_text_has_a_larger_share() -> None:
    body = b'{"model":"m","embeddings":[[1],[1],[1]],"prompt_eval_count":100}'
    shares = [vector.tokens for vector in split(body, ["a", "a" * 50, "a" * 100]) or []]
    assert shares == sorted(shares)
    assert shares[0] < shares[1] < shares[2]


@pytest.mark.parametrize(
    ("given", "texts"),
    [
        ("a", ["a"]),
        (["a"], ["a"]),
        (["a", ""], ["a", ""]),
        ([], None),
        (None, None),
        (["a", 1], None),
        ([["a"]], None),
        (["a"] * (MAX_INPUTS + 1), None),
    ],
)
def test_inputs(given: object, texts: list[str] | None) -> None:
    assert texts_of({"input": given}) == texts
    assert texts_of({}) is None


def test_the_rest_of_the_request_stays() -> None:
    asked = asking_for({"model": "m", "input": ["a", "b"], "dimensions": 3}, ["b"])
    assert asked == {"model": "m", "input": ["b"], "dimensions": 3}


@pytest.mark.parametrize(
    "lines",
    [
        [],
        [b""],
        [b"nonsense"],
        [pack(vector()), b""],
        [pack(vector(b"", is_text=False))],
        [pack(vector(b"12345", is_text=False))],
        [msgspec.msgpack.encode([b"1234", "no", 1, 1, 1])],
    ],
)
def test_what_is_no_vector_is_refused(lines: list[bytes]) -> None:
    with pytest.raises(ValueError, match=r"."):
        unpack(lines)
