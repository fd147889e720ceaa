from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.errors import BadRequest
from serve.wire.names import Name, canonical, is_cloud, parse, short
from tests.wire.golden import recorded, rows


@pytest.mark.parametrize("row", rows("names"), ids=lambda row: row["name"][:40])
def test_names_are_valid_and_shortened_as_in_go(row: dict[str, Any]) -> None:
    if row["valid"]:
        assert short(row["name"]) == row["short"]
        assert canonical(row["name"]) == row["full"].lower()
    else:
        with pytest.raises(BadRequest, match=r"^invalid model name$"):
            canonical(row["name"])


def test_parts_keep_the_callers_case() -> None:
    assert parse(" HF.co/User/Model:Q4 ") == Name("HF.co", "User", "Model", "Q4")


@pytest.mark.parametrize("empty", ["", " \n", "\u00a0\u3000"])
def test_an_empty_name_is_named_so(empty: str) -> None:
    with pytest.raises(BadRequest, match=r"^model is required$"):
        canonical(empty)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("m:local", "registry.ollama.ai/library/m:latest"),
        ("m:7b:LOCAL", "registry.ollama.ai/library/m:7b"),
        ("m:cloud", "registry.ollama.ai/library/m:cloud"),
        ("m:7b-cloud", "registry.ollama.ai/library/m:7b-cloud"),
        ("m:7b:cloud", "registry.ollama.ai/library/m:7b-cloud"),
        ("host:80/n/m:Cloud", "host:80/n/m:cloud"),
        ("u/m:local", "registry.ollama.ai/u/m:latest"),
    ],
)
def test_local_is_dropped_and_cloud_is_not(name: str, expected: str) -> None:
    assert canonical(name) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("m:cloud", True),
        (" m:7b-CLOUD ", True),
        ("m:7b:cloud", True),
        ("m-cloud", False),
        ("m:local", False),
        ("m", False),
        ("a b:cloud", False),
        ("m:cloud:cloud", False),
    ],
)
def test_the_clouds_models_are_known_by_their_source(name: str, *, expected: bool) -> None:
    assert is_cloud(name) is expected


@pytest.mark.parametrize("name", ["m:cloud:local", "m:local:cloud", "m:7b-cloud:local"])
def test_two_sources_are_refused(name: str) -> None:
    with pytest.raises(BadRequest) as refused:
        canonical(name)
    assert str(refused.value) == f'use either :local or :cloud, not both: "{name}"'


def test_the_recorded_bad_name() -> None:
    assert "invalid model name" in recorded("generate.bad_name")["frames"][0]
    with pytest.raises(BadRequest, match=r"^invalid model name$"):
        canonical("a b")


@given(st.text(alphabet="aZ09._-:/ ", max_size=20))
def test_canonical_is_idempotent_and_agrees_with_short(name: str) -> None:
    try:
        full = canonical(name)
    except BadRequest:
        return
    if not full.endswith(":local"):
        assert canonical(full) == full
        assert canonical(short(name)) == full
