"""The tree in `serve/errors.py`, as it is drawn there."""

import re
from collections.abc import Iterator

import pytest

from serve import errors
from serve.errors import RayllamaError
from serve.wire.errors import native_error, openai_error


def below(kind: type[RayllamaError]) -> Iterator[type[RayllamaError]]:
    for child in kind.__subclasses__():
        yield child
        yield from below(child)


KINDS = [kind for kind in below(RayllamaError) if kind.__module__ == errors.__name__]
"""All but what a part tells only itself."""


def made(kind: type[RayllamaError]) -> RayllamaError:
    return errors.EngineRefused(418, "text") if kind is errors.EngineRefused else kind("text")


def test_the_drawing_shows_every_class_with_its_status() -> None:
    assert errors.__doc__ is not None
    drawn = re.findall(r"[├└]── (\w+)\s+(\d{3}|\*|---)?", errors.__doc__)
    assert {name for name, _ in drawn} == {kind.__name__ for kind in KINDS}
    for name, status in drawn:
        if status.isdigit():
            assert getattr(errors, name).status == int(status)


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_says_whose_fault_it_is(kind: type[RayllamaError]) -> None:
    assert kind.fault in ("client", "capacity", "engine", "cache", "operator", "ours")
    assert re.fullmatch(r"[a-z_]+", kind.code)
    assert kind.__doc__


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_is_said_in_every_dialect(kind: type[RayllamaError]) -> None:
    error = made(kind)
    for rendered in (native_error(error), openai_error(error)):
        assert rendered.status == error.status
        assert str(error).encode() in rendered.body


def test_codes_are_their_own() -> None:
    codes = [kind.code for kind in KINDS]
    assert len(codes) == len(set(codes))
