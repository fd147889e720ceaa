"""The progress of a change on several stores, as one stream."""

import json
from typing import Any

import pytest

from serve.web.progress import Progress, Store


class Told:
    """Two stores, and what was told."""

    def __init__(self, *names: str) -> None:
        self.stores = {name: Store(name) for name in names}
        self.progress = Progress(list(self.stores.values()))
        self.lines: list[dict[str, Any]] = []

    def __call__(self, store: str, **line: Any) -> None:
        self.lines += self.progress.take(self.stores[store], json.dumps(line).encode())

    def layer(self, store: str, completed: int) -> None:
        self(store, status="pulling a", digest="d", total=10, completed=completed)

    @property
    def completed(self) -> list[int]:
        return [line.get("completed", 0) for line in self.lines if "digest" in line]


def test_a_layer_is_as_far_as_the_slowest_store() -> None:
    told = Told("a", "b")
    told.layer("a", 5)
    told.layer("a", 10)
    told.layer("b", 3)
    told.layer("b", 2)
    told.layer("b", 10)
    assert told.completed == [3, 10]
    assert told.lines[0] == {"status": "pulling a", "digest": "d", "total": 10, "completed": 3}


def test_a_layer_is_told_when_all_stores_have_come_to_it() -> None:
    told = Told("a", "b")
    told.layer("a", 10)
    assert told.lines == []
    told.layer("b", 0)
    assert told.lines == [{"status": "pulling a", "digest": "d", "total": 10}]


def test_a_store_that_had_it_holds_nobody_up() -> None:
    told = Told("a", "b")
    told("b", status="verifying sha256 digest")
    told.layer("a", 4)
    assert told.completed == [4]


def test_a_step_is_told_when_all_have_come_to_it() -> None:
    told = Told("a", "b")
    told("a", status="pulling manifest")
    told("a", status="writing manifest")
    assert told.lines == []
    told("b", status="pulling manifest")
    assert told.lines == [{"status": "pulling manifest"}]
    told("a", status="success")
    told("b", status="writing manifest")
    told("b", status="success")
    assert told.lines[1:] == [{"status": "writing manifest"}]
    assert told.progress.outcome("pull") == {"status": "success"}


def test_if_all_fail_alike_their_error_is_the_answers() -> None:
    told = Told("a", "b")
    for name in "ab":
        told(name, error="file does not exist")
    assert told.progress.outcome("pull") == {"error": "file does not exist"}


@pytest.mark.parametrize("line", [b"nonsense", b"[1]", b'{"error":"no space"}'])
def test_if_some_fail_it_is_said_which(line: bytes) -> None:
    told = Told("a", "b")
    told("a", status="success")
    told.progress.take(told.stores["b"], line)
    said = told.progress.outcome("pull")["error"]
    assert said.startswith("pull reached 1 of 2 model stores (a) and failed on others")
    assert "b: " in said
