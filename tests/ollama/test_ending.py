"""Which answers ended well."""

import pytest

from serve.ollama.ending import Ending
from serve.ports import Head

LINES = "application/x-ndjson"
A = b'{"model":"m","response":"a","done":false}\n'
DONE = b'{"model":"m","response":"","done":true,"done_reason":"stop"}\n'
ERROR = b'{"error":"an error was encountered while running the model: unexpected EOF"}\n'
SAYS_DONE = b'{"model":"m","response":"\\"done\\":true","done":false}\n'


@pytest.mark.parametrize(
    ("head", "parts", "is_good"),
    [
        (Head(200, LINES), [A, DONE], True),
        (Head(200, LINES), [A + A + DONE], True),
        (Head(200, LINES), [A], False),
        (Head(200, LINES), [], False),
        (Head(200, LINES), [SAYS_DONE], False),
        (Head(200, LINES), [A, ERROR], False),
        (Head(200, LINES), [A + ERROR], False),
        (Head(200, LINES), [A, b'{"model":"m","done":tr'], False),
        (Head(200, "application/json; charset=utf-8"), [b"{}"], True),
        (Head(404, "application/json; charset=utf-8"), [b'{"error":"x"}'], False),
        (Head(503, LINES), [DONE], False),
    ],
)
def test_ending(head: Head, parts: list[bytes], *, is_good: bool) -> None:
    ending = Ending()
    ending.see(head)
    for part in parts:
        ending.see(part)
    assert ending.is_good() is is_good
