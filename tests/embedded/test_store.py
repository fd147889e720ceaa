"""The store: one process makes a file, all find it, nobody sees half of it."""

import hashlib
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest

from serve.embedded.store import Store
from tests.embedded.weights import all_minilm


def _slowly(path: Path) -> None:
    with path.open("w") as file:
        for _ in range(100):
            file.write(f"{os.getpid()}\n")
            file.flush()


def _make(root: str, results: "multiprocessing.Queue[str]") -> None:
    results.put(Store(Path(root)).made_once("file", _slowly).read_text())


def test_many_processes_make_a_file_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    results: multiprocessing.Queue[str] = context.Queue()
    makers = [context.Process(target=_make, args=(str(tmp_path), results)) for _ in range(3)]
    for maker in makers:
        maker.start()
    texts = {results.get(timeout=60) for _ in makers}
    for maker in makers:
        maker.join()
    assert len(texts) == 1
    assert texts.pop().count("\n") == 100
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "lock"]


def test_two_engines_convert_at_once_and_agree(tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "serve.embedded", "convert",
        str(all_minilm()), str(tmp_path), "0123456789abcdef" * 4,
    ]  # fmt: skip
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    paths = {process.communicate(timeout=120)[0].strip() for process in both}
    assert [process.returncode for process in both] == [0, 0]
    assert paths == {str(tmp_path / "all-minilm-0123456789abcdef-1.gguf")}
    assert sorted(path.suffix for path in tmp_path.iterdir()) == ["", ".gguf"]


def test_what_fails_leaves_nothing(tmp_path: Path) -> None:
    def failing(path: Path) -> None:
        path.write_text("half")
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        Store(tmp_path).made_once("file", failing)
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]


def test_digests_are_remembered_until_the_file_changes(tmp_path: Path) -> None:
    store, file = Store(tmp_path / "store"), tmp_path / "weights"
    file.write_bytes(b"one")
    assert store.sha256(file) == hashlib.sha256(b"one").hexdigest()
    remembered = (tmp_path / "store" / "sha256.json").read_text()
    assert store.sha256(file) == hashlib.sha256(b"one").hexdigest()
    assert (tmp_path / "store" / "sha256.json").read_text() == remembered
    file.write_bytes(b"other")
    assert store.sha256(file) == hashlib.sha256(b"other").hexdigest()


def test_a_store_that_cannot_be_used_only_costs_time(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_bytes(b"one")
    assert Store(file / "store").sha256(file) == hashlib.sha256(b"one").hexdigest()
    (tmp_path / "sha256.json").write_text("[broken")
    assert Store(tmp_path).sha256(file) == hashlib.sha256(b"one").hexdigest()
