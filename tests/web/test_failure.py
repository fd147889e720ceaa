"""Every error in every dialect, byte for byte as a person last looked at it."""

import json
from typing import Any

import pytest

from serve.web.routes import ASKED
from tests.web.said_errors import GOLDEN, STREAMED, said

EXPECTED = [json.loads(row) for row in GOLDEN.read_text().splitlines()]
ROWS = list(zip(said(), EXPECTED, strict=True))


def _name(row: dict[str, Any]) -> str:
    return str(row["stream"]) if "stream" in row else f"{row['error']}-{row['dialect']}"


@pytest.mark.parametrize(("row", "expected"), ROWS, ids=_name)
def test_it_is_said_as_it_was_when_last_read(row: dict[str, Any], expected: dict[str, Any]) -> None:
    if "body" in row:  # its length counts what stands for the request's id too
        row["headers"].pop("content-length")
        expected["headers"].pop("content-length")
    assert row == expected


def test_every_stream_has_an_end() -> None:
    streams = [route for route in ASKED if "embed" not in route]
    assert sorted(STREAMED) == sorted(streams)
    assert all(row["end"] for row in EXPECTED if "stream" in row)
