"""Thoughts and text told apart, however the stream cuts them."""

import asyncio
from collections.abc import AsyncGenerator
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from serve.embedded.asking import Question
from serve.embedded.chat import _pieces
from serve.embedded.completion import Final, Piece
from serve.embedded.thoughts import apart, has_tags
from serve.wire.messages import Message
from serve.wire.options import Options

if TYPE_CHECKING:
    from serve.embedded.loaded import Loaded

_END = Final("stop", 1, 1, 1, 1)


async def split(prompt: str, *texts: str) -> tuple[str, str]:
    """All thoughts and all text of an answer that comes in these parts."""

    async def pieces() -> AsyncGenerator[Piece, None]:
        for text in texts:
            yield Piece(text)
        yield Piece("", final=_END)

    found = [piece async for piece in apart(pieces(), prompt)]
    assert found[-1].final is _END
    return "".join(p.thinking for p in found), "".join(p.text for p in found)


@pytest.mark.parametrize(
    ("prompt", "text", "thought", "said"),
    [
        ("Q", "<think>so</think>\n\nyes", "so", "yes"),
        ("Q", " <think>\nso</think>yes", "so", "yes"),
        ("Q<think>\n", "so</think>yes", "so", "yes"),
        ("Q<think>", "so it goes", "so it goes", ""),
        ("Q<think>", "a < b </thin", "a < b </thin", ""),
        ("Q", "plain <think>no</think>", "", "plain <think>no</think>"),
        ("Q", "<thi", "", "<thi"),
        ("Q", "", "", ""),
    ],
)
async def test_however_it_is_cut(prompt: str, text: str, thought: str, said: str) -> None:
    assert await split(prompt, text) == (thought, said)
    assert await split(prompt, *text) == (thought, said)


async def test_what_llama_cpp_told_apart_is_believed() -> None:
    async def pieces() -> AsyncGenerator[Piece, None]:
        yield Piece(thinking="so")
        yield Piece("<think>yes")
        yield Piece("", final=_END)

    found = [(p.thinking, p.text) async for p in apart(pieces(), "Q<think>")]
    assert found == [("so", ""), ("", "<think>yes"), ("", "")]


async def test_what_is_held_back_is_told_of_where_every_piece_is() -> None:
    async def pieces() -> AsyncGenerator[Piece, None]:
        for text in ("<think>", "so", "</think>", "yes"):
            yield Piece(text, logprobs=[{"token": text}])

    found = [(p.thinking, p.text) async for p in apart(pieces(), "Q")]
    assert found == [("so", ""), ("", "yes")]
    found = [(p.thinking, p.text) async for p in apart(pieces(), "Q", every=True)]
    assert found == [("", ""), ("so", ""), ("", ""), ("", "yes")]


class ScriptedRunner:
    """Loaded with it, a model says these texts, one a call."""

    def __init__(self, *texts: str) -> None:
        self.texts = list(texts)
        self.bodies: list[dict[str, Any]] = []
        self.slots = asyncio.Semaphore(1)
        self.process = SimpleNamespace(llama=self)
        self.model = SimpleNamespace(template="<think></think>", facts=None)
        self.launch = SimpleNamespace(context=512, shift=True)

    async def ask(self, _: str, body: dict[str, Any]) -> Any:
        return {"prompt": "".join(map(str, body["messages"][1:]))}

    async def events(self, _: str, body: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        self.bodies.append(body)
        for character in self.texts.pop(0):
            yield {"content": character, "stop": False}
        timings = {"prompt_n": 1, "prompt_ms": 1, "predicted_n": 1, "predicted_ms": 1}
        yield {"content": "", "stop": True, "stop_type": "eos", "timings": timings}


@pytest.mark.parametrize(
    ("texts", "thought", "said", "bound"),
    [
        (["<think>so</think>free", '{"a":1}'], "so", '{"a":1}', [False, True]),
        (["<think>so"], "so", "", [False]),
        (["free"], "", "free", [False]),
    ],
)
async def test_thoughts_are_free_of_the_format_of_the_answer(
    texts: list[str], thought: str, said: str, bound: list[bool]
) -> None:
    runner = ScriptedRunner(*texts)
    question = Question(Options(), format={"type": "object"}, think=True)
    messages = [Message(role="user", content="Q")]
    found = [p async for p in _pieces(cast("Loaded", runner), question, messages)]
    assert "".join(p.thinking for p in found) == thought
    assert "".join(p.text for p in found) == said
    assert [p.final is not None for p in found].count(True) == 1
    assert ["json_schema" in body for body in runner.bodies] == bound
    assert all("so" in body["prompt"] for body in runner.bodies[1:])


def test_templates_with_tags_are_known() -> None:
    assert has_tags("{{ '<think>' }} … </think>")
    assert not has_tags("{{ '<think>' }}")
