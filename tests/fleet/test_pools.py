"""Which pool a model is asked of."""

from typing import Any

import pytest

from serve.errors import ConfigError
from serve.fleet.pools import Pools
from serve.settings import Settings, parse

LLAMA = "registry.ollama.ai/library/llama3.2:3b"
SMOL = "registry.ollama.ai/library/smollm2:135m"


def pools(**given: Any) -> Pools:
    return Pools(Settings.model_validate(given))


def test_one_pool_without_a_name_serves_all() -> None:
    assert pools(inference={"models": ["smollm2:135m"]}).of(LLAMA) == ""


def test_a_model_goes_to_the_pool_that_names_it_and_others_to_the_default() -> None:
    found = pools(
        pools={
            "small": {"serves": ["SmolLM2:135M"], "default": True},
            "big": {"models": ["llama3.2:3b"], "num_gpus": 2},
        }
    )
    assert [found.of(SMOL), found.of(LLAMA), found.of("x/y/z:t")] == ["small", "big", "small"]
    assert found["big"].num_gpus == 2


def test_without_a_default_pool_nobody_serves_what_is_not_named() -> None:
    assert pools(pools={"a": {"models": ["smollm2:135m"]}}).of(LLAMA) is None


def test_a_pool_begins_from_inference() -> None:
    settings = parse(
        {
            "inference": {"engine": "embedded", "slots": 7, "env": {"A": "1"}},
            "pools": {"a": {"slots": 2}, "b": {}},
        }
    )
    shapes = settings.shapes
    assert {name: each.slots for name, each in shapes.items()} == {"a": 2, "b": 7}
    assert all(each.engine == "embedded" for each in shapes.values())
    assert shapes["b"].env["A"].get_secret_value() == "1"
    # Serve hands some actors the settings as plain data, which must mean the same.
    assert parse(settings.model_dump()).shapes == shapes


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            {"pools": {"a": {"models": ["m"]}, "b": {"serves": ["m:latest"]}}},
            "is a model of the pool 'a' too",
        ),
        ({"pools": {"a": {"models": ["a b"]}}}, "pools.a.models: 'a b': invalid model name"),
        ({"inference": {"serves": [""]}}, "inference.models: ''"),
    ],
)
def test_names_that_make_no_sense_are_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as refused:
        pools(**given)
    assert words in str(refused.value)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"pools": {"a": {"default": True}, "b": {"default": True}}}, "a and b are both"),
        ({"pools": {"a b": {}}}, "pools.a b"),
        ({"inference": {"min_replicas": 0}}, "give both `min_replicas` and `max_replicas`"),
        ({"inference": {"min_replicas": 3, "max_replicas": 2}}, "min_replicas: more than"),
        (
            {
                "inference": {
                    "engine": "attach",
                    "urls": ["http://127.0.0.1:1"],
                    "min_replicas": 0,
                    "max_replicas": 1,
                }
            },
            "`urls` have one replica each",
        ),
        ({"pools": {"a": {"slotz": 1}}}, "unknown key 'slotz'; did you mean 'slots'?"),
    ],
)
def test_bad_pools_are_refused_by_name(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse(given)
    assert words in str(refused.value)
