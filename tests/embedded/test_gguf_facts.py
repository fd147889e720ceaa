"""Reading GGUF: against the package `gguf`, and files that are none."""

from pathlib import Path

import gguf
import pytest

from serve.embedded import gguf_facts
from tests.embedded.weights import smollm2


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A file with a value of every type and two tensors."""
    import numpy as np  # noqa: PLC0415 - only this fixture makes weights

    path = tmp_path / "small.gguf"
    writer = gguf.GGUFWriter(path, "tiny")
    writer.add_uint8("a.u8", 255)
    writer.add_int8("a.i8", -1)
    writer.add_uint16("a.u16", 65535)
    writer.add_int16("a.i16", -2)
    writer.add_uint32("tiny.context_length", 77)
    writer.add_int32("a.i32", -3)
    writer.add_uint64("a.u64", 1 << 63)
    writer.add_int64("a.i64", -4)
    writer.add_float32("a.f32", 0.1)
    writer.add_float64("a.f64", 0.1)
    writer.add_bool("a.yes", val=True)
    writer.add_string("a.text", "naïve 你好")
    writer.add_array("a.words", ["one", "", "three"])
    writer.add_array("a.numbers", [1.5, 2.5])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_K_M)
    writer.add_tensor("matrix", np.zeros((3, 5), dtype=np.float16))
    writer.add_tensor("vector", np.zeros(7, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _by_the_package(path: Path) -> tuple[dict[str, object], list[tuple[object, ...]]]:
    reader = gguf.GGUFReader(path)
    keys = {key: field.contents() for key, field in reader.fields.items() if "GGUF." not in key}
    tensors: list[tuple[object, ...]] = [
        (t.name, tuple(int(n) for n in t.shape), t.tensor_type.name) for t in reader.tensors
    ]
    return keys, tensors


def test_reads_what_the_package_reads(small: Path) -> None:
    keys, tensors = _by_the_package(small)
    facts = gguf_facts.read(small, arrays=True)
    assert facts.keys == keys | {"a.f32": 0.1}
    assert list(facts.tensors) == tensors


def test_leaves_arrays_out_unless_asked(small: Path) -> None:
    facts = gguf_facts.read(small)
    assert facts.keys["a.words"] is None
    assert facts.keys["a.numbers"] is None
    assert facts.keys["a.text"] == "naïve 你好"


def test_says_what_a_model_is(small: Path) -> None:
    facts = gguf_facts.read(small)
    assert (facts.architecture, facts.file_type) == ("tiny", "Q4_K_M")
    assert (facts.number("context_length"), facts.number("no_such")) == (77, 0)
    assert facts.parameter_count == 3 * 5 + 7


def test_reads_the_model_that_comes_along() -> None:
    facts = gguf_facts.read(smollm2())
    assert gguf_facts.human_count(facts.parameter_count) == "134.52M"
    assert facts.file_type == "Q4_1"
    assert facts.keys["llama.attention.layer_norm_rms_epsilon"] == 1e-05


@pytest.mark.parametrize("size", [4, 12, 30, 200, 400])
def test_a_file_that_ends_too_early_is_refused(small: Path, tmp_path: Path, size: int) -> None:
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(small.read_bytes()[:size])
    with pytest.raises(ValueError, match="ends too early"):
        gguf_facts.read(cut)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not a GGUF file"),
        (b"hello there", "not a GGUF file"),
        (b"GGUF\x01\0\0\0" + bytes(16), "version 1"),
        (b"GGUF\x03\0\0\0" + bytes(8) + b"\1" + bytes(7) + bytes(8) + b"\x63\0\0\0", "type 99"),
    ],
)
def test_what_is_no_gguf_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=said):
        gguf_facts.read(path)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (134_515_008, "134.52M"),
        (7_000_000_000, "7B"),
        (8_030_000_000, "8.0B"),
        (22_000_000, "22M"),
        (51_300, "51K"),
        (999, "999"),
    ],
)
def test_counts_for_people(count: int, text: str) -> None:
    assert gguf_facts.human_count(count) == text


@pytest.mark.parametrize("value", [0.1, 1e-05, -0.062879354, 3.4e38, 1e-30, 0.0, 1.0])
def test_shortest_decimals_of_a_float32(value: float) -> None:
    assert gguf_facts.shortest(gguf_facts.float32(value)) == pytest.approx(value, rel=1e-6)
    assert len(repr(gguf_facts.shortest(gguf_facts.float32(value)))) <= len(repr(value))


def test_what_no_float32_can_hold_has_no_shorter_form() -> None:
    assert gguf_facts.shortest(float("inf")) == float("inf")
    assert gguf_facts.float32(1e300) != gguf_facts.float32(1e300)
