"""Thoughts and text told apart, however the stream cuts them."""

from collections.abc import AsyncGenerator

import pytest

from serve.embedded.completion import Final, Piece
from serve.embedded.thoughts import apart, has_tags

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


def test_templates_with_tags_are_known() -> None:
    assert has_tags("{{ '<think>' }} … </think>")
    assert not has_tags("{{ '<think>' }}")
