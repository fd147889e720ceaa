"""Models from a registry: whole, resumed, shared, refused."""

import json
import threading
from collections.abc import Generator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.embedded.engines import EngineProcess, running
from tests.embedded.fake_registry import FakeRegistry, serving

pytestmark = pytest.mark.engine


@pytest.fixture
def registry() -> Generator[FakeRegistry, None, None]:
    with serving() as registry:
        yield registry


@pytest.fixture
def mine(tmp_path: Path) -> Generator[EngineProcess, None, None]:
    with running(tmp_path, config={"store": str(tmp_path / "store")}) as engine:
        yield engine


def _pull(engine: EngineProcess, name: str, **more: Any) -> list[dict[str, Any]]:
    answer = engine.post("/api/pull", {"model": name, "insecure": True} | more)
    return [json.loads(line) for line in answer.text.splitlines()]


def _names(engine: EngineProcess) -> list[str]:
    return [row["name"] for row in engine.get("/api/tags").json()["models"]]


def test_a_pulled_model_answers_and_goes(mine: EngineProcess, registry: FakeRegistry) -> None:
    lines = _pull(mine, registry.name)
    assert [line["status"] for line in lines][-3:] == [
        "verifying sha256 digest",
        "writing manifest",
        "success",
    ]
    name = f"{registry.host}/library/smollm2:135m"
    assert name in _names(mine)
    body = {"model": name, "prompt": "Hi", "stream": False, "options": {"num_predict": 2}}
    assert mine.post("/api/generate", body).json()["done"]
    asked = len(registry.ranges)
    assert _pull(mine, registry.name, stream=False) == [{"status": "success"}]
    assert len(registry.ranges) == asked
    url, named = mine.url + "/api/delete", {"model": name}
    httpx.request("DELETE", url, json=named, trust_env=False).raise_for_status()
    assert name not in _names(mine)


def test_a_pull_goes_on_where_the_connection_broke(
    mine: EngineProcess, registry: FakeRegistry
) -> None:
    registry.cut_after = 10 << 20
    assert _pull(mine, registry.name)[-1] == {"status": "success"}
    assert registry.ranges[0] == "bytes=0-"
    assert registry.ranges[1] != "bytes=0-"


def test_bytes_of_another_digest_are_no_model(mine: EngineProcess, registry: FakeRegistry) -> None:
    registry.garbled = True
    *_, before, last = _pull(mine, registry.name)
    assert before == {"status": "verifying sha256 digest"}
    assert last["error"].startswith("digest mismatch, file must be downloaded again: want sha256:")
    registry.garbled = False
    assert _pull(mine, registry.name)[-1] == {"status": "success"}


def test_many_who_pull_at_once_load_it_once(
    mine: EngineProcess, registry: FakeRegistry, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    ends: list[dict[str, Any]] = []
    with running(other, config={"store": str(tmp_path / "store")}) as second:
        threads = [
            threading.Thread(target=lambda to=to: ends.append(_pull(to, registry.name)[-1]))
            for to in (mine, second, mine)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert ends == [{"status": "success"}] * 3
    assert len(registry.ranges) == len(registry.blobs)


def test_what_cannot_be_pulled(mine: EngineProcess, registry: FakeRegistry) -> None:
    unknown = f"http://{registry.host}/library/nope"
    missing = {"error": "pull model manifest: file does not exist"}
    assert _pull(mine, unknown) == [{"status": "pulling manifest"}, missing]
    refused = mine.post("/api/pull", {"model": unknown, "insecure": True, "stream": False})
    assert (refused.status_code, refused.json()) == (500, missing)
    assert refused.headers["content-type"] == "application/json"
    url = f"https://{registry.host}/v2/library/smollm2/manifests/135m"
    error = f'pull model manifest: Get "{url}": EOF'
    assert _pull(mine, registry.name, insecure=False)[-1] == {"error": error}
    assert mine.post("/api/pull", {"model": "a b"}).status_code == 400
