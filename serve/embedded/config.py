"""What the engine is told: Ollama's own environment variables, and `embedded` of the settings."""

import math
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from serve.errors import ConfigError
from serve.settings import EmbeddedSettings, GgufModel
from serve.wire.gotime import parse_duration

_CPU_CONTEXT = 4096
_CPU_LOADED_MODELS = 3
_KEEP_ALIVE_S = 300.0
_NS = 1e9


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """The engine's configuration; defaults are Ollama's on a machine without a GPU.

    `keep_alive_s` is infinite where a model stays until another needs its place.
    """

    store: Path
    slots: int = 1
    context_length: int = _CPU_CONTEXT
    keep_alive_s: float = _KEEP_ALIVE_S
    max_loaded_models: int = _CPU_LOADED_MODELS
    max_queue: int = 512
    kv_cache_type: str = ""
    flash_attention: bool | None = None
    threads: int = 1
    origins: tuple[str, ...] = ()
    models: tuple[GgufModel, ...] = ()


def engine_config(
    embedded: EmbeddedSettings, variables: Mapping[str, str], cache_home: Path
) -> EngineConfig:
    """From the settings and the `OLLAMA_*` variables. Raises `ConfigError` for a bad variable."""
    return EngineConfig(
        store=Path(embedded.store) if embedded.store else cache_home / "rayllama",
        slots=_count(variables, "OLLAMA_NUM_PARALLEL", 1) or 1,
        context_length=_count(variables, "OLLAMA_CONTEXT_LENGTH", 0) or _CPU_CONTEXT,
        keep_alive_s=_keep_alive(variables.get("OLLAMA_KEEP_ALIVE", "")),
        max_loaded_models=_count(variables, "OLLAMA_MAX_LOADED_MODELS", 0) or _CPU_LOADED_MODELS,
        max_queue=_count(variables, "OLLAMA_MAX_QUEUE", 512),
        kv_cache_type=variables.get("OLLAMA_KV_CACHE_TYPE", ""),
        flash_attention=_flag(variables.get("OLLAMA_FLASH_ATTENTION", "")),
        threads=embedded.threads or _spare_cores(),
        origins=tuple(filter(None, variables.get("OLLAMA_ORIGINS", "").split(","))),
        models=tuple(embedded.models),
    )


def _spare_cores() -> int:
    """All cores but one: llama.cpp's threads wait for each other at every step, so one of them
    without a core stalls all (measured on two busy cores: 40 tokens/s with one thread, 5 with two).
    """
    usable = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return max(1, min(psutil.cpu_count(logical=False) or usable, usable) - 1)


def _count(variables: Mapping[str, str], name: str, default: int) -> int:
    text = variables.get(name, "")
    if not text:
        return default
    if not text.isdecimal():
        raise ConfigError(f"{name}: {text!r} is not a whole number")
    return int(text)


def _keep_alive(text: str) -> float:
    """A Go duration, or seconds; negative: for ever. What is neither counts as unset, as there."""
    try:
        seconds = parse_duration(text) / _NS
    except ValueError:
        seconds = float(text) if text.lstrip("+-").isdecimal() else _KEEP_ALIVE_S
    return math.inf if seconds < 0 else seconds


def _flag(text: str) -> bool | None:
    """Unset: where the hardware supports it. Any word but a false one is true, as in Ollama."""
    if not text:
        return None
    return text.lower() not in {"0", "f", "false"}
