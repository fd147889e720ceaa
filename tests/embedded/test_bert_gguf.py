"""The conversion of all-minilm, against the file that Ollama makes of it."""

import json
from pathlib import Path
from typing import Any

import gguf
import pytest

from serve.conformance.replay import RECORDINGS
from serve.embedded.bert_gguf import convert
from tests.embedded.weights import all_minilm


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("converted") / "all-minilm.gguf"
    convert(all_minilm(), path)
    return path


def test_keys_and_tensors_are_ollamas(converted: Path) -> None:
    recorded = json.loads((RECORDINGS / "all-minilm.gguf.json").read_text())
    reader = gguf.GGUFReader(converted)
    assert {key: _shown(field.contents()) for key, field in reader.fields.items()} == recorded[
        "keys"
    ]
    tensors = [[t.name, [int(n) for n in t.shape], t.tensor_type.name] for t in reader.tensors]
    assert tensors == recorded["tensors"]


def test_the_same_weights_make_the_same_file(converted: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.gguf"
    convert(all_minilm(), again)
    assert again.read_bytes() == converted.read_bytes()


def _shown(value: Any) -> Any:
    """As the recording shows it: of a list two parts."""
    if not isinstance(value, list):
        return value
    return {"first": value[:8], "at_2000": value[2000:2008], "length": len(value)}
