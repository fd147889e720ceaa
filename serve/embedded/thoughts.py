"""Telling a model's thoughts from its answer in a text that streams, by the tags around them."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

from serve.embedded.completion import Piece

_OPEN, _CLOSE = "<think>", "</think>"


def has_tags(template: str) -> bool:
    """Are the thoughts of a model with this chat template between tags that are known here?"""
    return _OPEN in template and _CLOSE in template


async def apart(
    pieces: AsyncGenerator[Piece, None], prompt: str, *, every: bool = False
) -> AsyncGenerator[Piece, None]:
    """The pieces of the answer to `prompt` with thoughts and text told apart.

    Where llama.cpp has told them apart already, it is believed. A piece of which all is held back
    is told of if `every` one is to be, as by Ollama's generate; its chat drops these, and their log
    probabilities with them.
    """
    thoughts: Thoughts | None = Thoughts.after(prompt)
    async with aclosing(pieces):
        async for piece in pieces:
            if piece.thinking:
                thoughts = None
            if thoughts is None:
                yield piece
                continue
            thinking, text = thoughts.split(piece.text, last=piece.final is not None)
            if every or thinking or text or piece.final:
                yield replace(piece, text=text, thinking=thinking)


class Thoughts:
    """Splits text as it comes. `inside`: the prompt has opened the thought already."""

    def __init__(self, *, inside: bool) -> None:
        self._inside = inside
        self._began = inside
        self._at_start = inside
        self._held = ""

    @classmethod
    def after(cls, prompt: str) -> "Thoughts":
        """For the answer to `prompt`."""
        return cls(inside=prompt.rstrip().endswith(_OPEN))

    def split(self, text: str, *, last: bool = False) -> tuple[str, str]:
        """What of the text so far is (thought, answer); the beginning of a tag is held back."""
        text, self._held = self._held + text, ""
        if not self._began:
            text = self._open(text, last=last)
        if not self._inside:
            return "", self._trimmed(text)
        thought, tag, answer = text.partition(_CLOSE)
        if not tag:
            kept = 0 if last else _overlap(thought, _CLOSE)
            self._held = thought[len(thought) - kept :]
            return self._trimmed(thought[: len(thought) - kept]), ""
        thought = self._trimmed(thought)
        self._inside, self._at_start = False, True
        return thought, self._trimmed(answer)

    def _open(self, text: str, *, last: bool) -> str:
        """Looks for the opening tag, which only counts at the very beginning."""
        start = text.lstrip()
        if start.startswith(_OPEN):
            self._began = self._inside = self._at_start = True
            return start.removeprefix(_OPEN)
        if _OPEN.startswith(start) and not last:
            self._held = text
            return ""
        self._began = True
        return text

    def _trimmed(self, text: str) -> str:
        """Without the white space that follows a tag."""
        if self._at_start:
            text = text.lstrip()
            self._at_start = not text
        return text


def _overlap(text: str, tag: str) -> int:
    """How many characters at the end of `text` may be the beginning of `tag`."""
    return next(
        (n for n in range(min(len(text), len(tag) - 1), 0, -1) if tag.startswith(text[-n:])), 0
    )
