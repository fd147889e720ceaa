import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.wire.frames import Done, Lines, error_text, is_error, is_over, parse_last
from tests.wire.golden import frames


@given(st.lists(st.binary(max_size=12)))
def test_lines_are_the_same_however_the_bytes_come(parts: list[bytes]) -> None:
    lines = Lines()
    whole = [line for part in parts for line in lines.feed(part)]
    data = b"".join(parts)
    assert b"".join(whole) + lines.rest() == data
    assert all(line.endswith(b"\n") and line.count(b"\n") == 1 for line in whole)
    assert b"\n" not in lines.rest()


def test_a_line_may_hold_other_line_ends() -> None:
    assert Lines().feed(b"a\rb\x85c\nd\n") == [b"a\rb\x85c\n", b"d\n"]


def test_the_recorded_end_of_a_killed_runner_is_an_error() -> None:
    last = frames("faults.runner_killed_chat_stream")[-1]
    assert is_error(last)
    assert error_text(last) == ("an error was encountered while running the model: unexpected EOF")
    assert not is_error(frames("chat.stream")[0])


@pytest.mark.parametrize(
    ("body", "text"),
    [(b"plain words\n", "plain words"), (b'{"error":3}', '{"error":3}'), (b"\xff", "\ufffd")],
)
def test_what_is_no_error_body_is_the_text_itself(body: bytes, text: str) -> None:
    assert error_text(body) == text


def test_the_recorded_last_lines_are_read() -> None:
    assert parse_last(frames("generate.stream")[0]) is None
    done = parse_last(frames("generate.stream")[-1])
    assert done is not None
    assert (done.done_reason, done.prompt_eval_count, done.eval_count) == ("length", 12, 12)
    assert done.total_duration == 127465353
    assert parse_last(frames("chat.no_stream")[0]) is not None


@pytest.mark.parametrize(
    "line",
    [
        b'{"response":"\\"done\\":true","done":false}',
        b'{"x":{"done":true},"done":false}',
        b'{"done":true,"eval_count":"many"}',
        b'{"done":true',
        b"",
    ],
)
def test_other_lines_are_not_last(line: bytes) -> None:
    assert parse_last(line) is None


def test_the_last_of_some_lines_says_whether_they_are_all() -> None:
    lines = frames("chat.stream")
    assert is_over(b"".join(lines))
    assert is_over(b'{"done": true}')
    for end in (b"".join(lines[:-1]), b"".join([*lines, lines[0]]), b"[]\n", b"noise", b""):
        assert not is_over(end)


def test_figures_that_are_left_out_are_zero() -> None:
    assert parse_last(b'{"done":true,"done_reason":"load"}') == Done(done=True, done_reason="load")
