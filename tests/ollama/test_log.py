"""The bounded file that an engine writes to."""

import os
from pathlib import Path

import pytest

from serve.ollama.log import EngineLog


def test_an_engine_that_wrote_nothing(tmp_path: Path) -> None:
    log = EngineLog(tmp_path)
    assert log.tail() == "(it wrote nothing)"
    log.trim()


def test_the_tail_is_the_last_lines_whatever_the_bytes(tmp_path: Path) -> None:
    log = EngineLog(tmp_path)
    log.path.write_bytes(b"\xff\n" * 100_000 + b"a\nb\nc\n")
    assert log.tail(2) == "b\nc"
    assert log.tail(4) == "�\na\nb\nc"


def test_a_file_over_its_bound_keeps_its_end_beside_it_and_goes_on(tmp_path: Path) -> None:
    log = EngineLog(tmp_path, max_bytes=1000)
    engine = log.open()
    try:
        os.write(engine, b"x" * 1000)
        log.trim()
        assert log.path.stat().st_size == 1000
        os.write(engine, b"end\n")
        log.trim()
        assert log.path.stat().st_size == 0
        os.write(engine, b"new\n")
        assert log.path.read_bytes() == b"new\n"
    finally:
        os.close(engine)
    older = tmp_path / "engine.log.1"
    assert older.read_bytes() == b"x" * 246 + b"end\n"
    assert older.stat().st_mode & 0o077 == 0


def test_last_words_are_an_engines_own(tmp_path: Path) -> None:
    (tmp_path / "engine.log").write_text("bind: address already in use\n")
    log = EngineLog(tmp_path, max_bytes=100)
    engine = log.open()
    try:
        assert log.tail() == "(it wrote nothing)"
        os.write(engine, b"mine\n")
        assert log.tail() == "mine"
        os.write(engine, b"x" * 100)
        log.trim()
        os.write(engine, b"after\n")
        assert log.tail() == "after"
    finally:
        os.close(engine)
    assert log.path.read_text() == "after\n"


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (
            'level=INFO source=types.go:50 msg="inference compute" id=GPU-6d1 library=CUDA '
            'compute=8.0 name=CUDA0 description="NVIDIA A100"',
            True,
        ),
        ('level=INFO msg="inference compute" id=0 filter_id="" library=ROCm compute=gfx1100', True),
        (
            'level=INFO source=types.go:50 msg="inference compute" id=cpu library=cpu compute="" '
            'name=cpu description=cpu libdirs=ollama driver=""',
            False,
        ),
        ("library=CUDA", False),
    ],
)
def test_an_engine_says_at_its_start_whether_it_found_a_gpu(
    tmp_path: Path, *, line: str, found: bool
) -> None:
    log = EngineLog(tmp_path)
    assert not log.names_gpu()
    with os.fdopen(log.open(), "w") as file:
        file.write(f"starting\n{line}\n")
    assert log.names_gpu() is found
