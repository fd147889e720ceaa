"""How a model was last called, as far as its runner is concerned."""

import json

import pytest

from serve.ollama.lately import Lately, Manner, manner
from serve.ports import Call


def call(path: str = "/api/chat", **body: object) -> Call:
    return Call("POST", path, json.dumps({"model": "m"} | body).encode(), "r", "m")


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (call(), Manner()),
        (call("/api/embed", input="x"), Manner(embeds=True)),
        (call(options={"num_ctx": 2048, "seed": 1}), Manner(options={"num_ctx": 2048})),
        (call(options=None, shift=False), Manner(shift=False)),
        (call(options=7), Manner()),
    ],
)
def test_only_what_the_runner_was_started_with_is_kept(asked: Call, expected: Manner) -> None:
    assert manner(asked) == expected


def test_a_model_is_known_by_its_last_good_answer() -> None:
    lately = Lately()
    first = lately.begun(call())
    assert lately.is_at_work("m")
    assert lately.may_load()
    lately.answered(first)
    assert not lately.may_load()
    second = lately.begun(call(options={"num_ctx": 2048}))
    assert lately.may_load(), "it wants another context"
    lately.ended(second)
    lately.ended(first)
    assert lately.known("m") == Manner()
    assert not lately.is_at_work("m")
    lately.restarted({"n": Manner()})
    assert lately.known("m") is None
    assert lately.known("n") == Manner()
