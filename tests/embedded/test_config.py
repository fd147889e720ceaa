"""Ollama's variables, as the engine reads them."""

import math
from pathlib import Path

import pytest

from serve.embedded.config import EngineConfig, engine_config
from serve.errors import ConfigError
from serve.settings import EmbeddedSettings


def config(settings: EmbeddedSettings | None = None, **variables: str) -> EngineConfig:
    return engine_config(settings or EmbeddedSettings(), variables, Path("/cache"))


def test_defaults_are_ollamas_without_a_gpu() -> None:
    made = config()
    assert (made.slots, made.context_length, made.max_loaded_models) == (1, 4096, 3)
    assert (made.keep_alive_s, made.max_queue) == (300, 512)
    assert made.store == Path("/cache/rayllama")
    assert made.flash_attention is None
    assert made.threads >= 1


def test_variables_and_settings_are_taken() -> None:
    made = config(
        EmbeddedSettings(store="/elsewhere", threads=3),
        OLLAMA_NUM_PARALLEL="4",
        OLLAMA_CONTEXT_LENGTH="2048",
        OLLAMA_MAX_LOADED_MODELS="2",
        OLLAMA_MAX_QUEUE="0",
        OLLAMA_KV_CACHE_TYPE="q8_0",
        OLLAMA_FLASH_ATTENTION="1",
        OLLAMA_ORIGINS="http://a.example,http://b.example",
    )
    assert (made.slots, made.context_length, made.max_loaded_models) == (4, 2048, 2)
    assert (made.max_queue, made.kv_cache_type, made.flash_attention) == (0, "q8_0", True)
    assert (made.store, made.threads) == (Path("/elsewhere"), 3)
    assert made.origins == ("http://a.example", "http://b.example")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("", 300),
        ("90s", 90),
        ("1h", 3600),
        ("10", 10),
        ("0", 0),
        ("-1", math.inf),
        ("-1m", math.inf),
        ("soon", 300),
    ],
)
def test_keep_alive_is_a_duration_or_seconds(text: str, seconds: float) -> None:
    assert config(OLLAMA_KEEP_ALIVE=text).keep_alive_s == seconds


def test_a_number_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="OLLAMA_NUM_PARALLEL: 'many' is not a whole number"):
        config(OLLAMA_NUM_PARALLEL="many")


@pytest.mark.parametrize(("text", "flag"), [("0", False), ("false", False), ("yes", True)])
def test_flags_are_true_unless_they_say_otherwise(text: str, *, flag: bool) -> None:
    assert config(OLLAMA_FLASH_ATTENTION=text).flash_attention is flag
