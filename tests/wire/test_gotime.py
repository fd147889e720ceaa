from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.wire.gotime import parse_duration
from tests.wire.golden import rows


@pytest.mark.parametrize("row", rows("durations"), ids=lambda row: repr(row["text"]))
def test_durations_are_read_as_in_go(row: dict[str, Any]) -> None:
    if "error" in row:
        with pytest.raises(ValueError, match=r"^time: ") as refused:
            parse_duration(row["text"])
        assert str(refused.value) == row["error"]
    else:
        assert parse_duration(row["text"]) == row["ns"]


@given(st.text(alphabet="0123456789.hmsnuµ+-", max_size=12))
def test_any_text_is_a_duration_or_refused(text: str) -> None:
    ns, said = 0, "time: "
    try:
        ns = parse_duration(text)
    except ValueError as exc:
        said = str(exc)
    assert said.startswith("time: ")
    assert -(1 << 63) <= ns < 1 << 63
