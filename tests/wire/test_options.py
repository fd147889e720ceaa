from typing import Any

import pytest
from pydantic import ValidationError

from serve.errors import EngineInvalid
from serve.wire.options import Options
from tests.wire.golden import recorded, rows


@pytest.mark.parametrize("row", rows("options"), ids=lambda row: repr(row["options"]))
def test_values_are_taken_or_refused_as_in_go(row: dict[str, Any]) -> None:
    if "error" in row:
        with pytest.raises(EngineInvalid) as refused:
            Options.merged(row["options"])
        assert str(refused.value) == row["error"]
        return
    options = Options.merged(row["options"])
    for name, value in row["set"].items():
        mine = getattr(options, name)
        if name == "stop":
            assert list(mine) == (value or [])
        elif isinstance(mine, float):
            assert mine == pytest.approx(value or 0, rel=1e-6)
        else:
            assert mine == (value or (0 if name == "num_ctx" else None))


def test_the_recorded_text() -> None:
    with pytest.raises(EngineInvalid) as refused:
        Options.merged({"num_ctx": "big"})
    assert refused.value.status == recorded("generate.option_wrong_type")["status"]
    text = str(refused.value).replace('"', '\\"')
    assert text in recorded("generate.option_wrong_type")["frames"][0]


def test_later_maps_win_and_null_leaves_what_was_there() -> None:
    options = Options.merged(
        {"seed": 1, "top_k": 5, "stop": ["a"]}, {"seed": 2.9, "top_k": None, "mirostat": "x"}
    )
    assert (options.seed, options.top_k, options.stop) == (2, 5, ("a",))
    assert options.temperature == 0.8


def test_options_are_frozen() -> None:
    with pytest.raises(ValidationError):
        Options().seed = 1  # type: ignore[misc]
