"""Models to a registry: in parts, sent on, again where the connection broke, refused."""

import json
from collections.abc import Generator
from typing import Any

import httpx
import pytest

from tests.embedded.engines import EngineProcess, free_port, running
from tests.embedded.fake_registry import FakeRegistry, serving

pytestmark = pytest.mark.engine


@pytest.fixture
def registry() -> Generator[FakeRegistry, None, None]:
    with serving() as registry:
        yield registry


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Generator[EngineProcess, None, None]:
    folder = tmp_path_factory.mktemp("push")
    with running(folder, config={"store": str(folder / "store")}) as engine:
        yield engine


def _named(engine: EngineProcess, registry: FakeRegistry, system: str) -> str:
    """A new model under a name that the registry may get."""
    name = f"{registry.host}/ann/mine:v1"
    body = {"model": name, "from": "smollm2:135m", "system": system}
    assert json.loads(engine.post("/api/create", body).text.splitlines()[-1]) == {
        "status": "success"
    }
    return name


def _push(engine: EngineProcess, name: str, **more: Any) -> list[dict[str, Any]]:
    answer = engine.post("/api/push", {"model": name, "insecure": True} | more)
    return [json.loads(line) for line in answer.text.splitlines()]


@pytest.mark.parametrize("is_sending_on", [False, True])
def test_what_was_pushed_can_be_pulled(
    mine: EngineProcess, registry: FakeRegistry, *, is_sending_on: bool
) -> None:
    registry.is_sending_on = is_sending_on
    name = _named(mine, registry, "Be brief.")
    registry.blobs.clear()
    lines = _push(mine, name)
    assert lines[0] == {"status": "retrieving manifest"}
    assert [line["status"] for line in lines][-2:] == ["pushing manifest", "success"]
    whole = [line for line in lines if line.get("completed", -1) == line.get("total")]
    manifest = json.loads(registry.given["/v2/ann/mine/manifests/v1"])
    digests = [layer["digest"] for layer in [*manifest["layers"], manifest["config"]]]
    assert {line["digest"] for line in whole} == set(digests) == set(registry.blobs)
    assert registry.uploads == {}
    httpx.request(
        "DELETE", mine.url + "/api/delete", json={"model": name}, trust_env=False
    ).raise_for_status()
    pulled = mine.post("/api/pull", {"model": f"http://{name}", "insecure": True, "stream": False})
    assert pulled.json() == {"status": "success"}
    assert mine.post("/api/show", {"model": name}).json()["system"] == "Be brief."
    assert _push(mine, name, stream=False) == [{"status": "success"}]
    assert registry.uploads == {}, "it has them all: nothing is sent"


def test_a_part_whose_connection_broke_is_sent_again(
    mine: EngineProcess, registry: FakeRegistry
) -> None:
    name = _named(mine, registry, "Be kind.")
    registry.drop_parts = 2
    assert _push(mine, name)[-1] == {"status": "success"}
    assert registry.drop_parts == 0


def test_a_registry_that_refuses_is_quoted(mine: EngineProcess, registry: FakeRegistry) -> None:
    name = _named(mine, registry, "Be wrong.")
    registry.blobs.clear()
    registry.uploads_refused = b'{"errors":[{"code":"DENIED"}]}'
    *_, last = _push(mine, name)
    assert last == {"error": '403: {"errors":[{"code":"DENIED"}]}'}
    refused = mine.post("/api/push", {"model": name, "insecure": True, "stream": False})
    assert refused.status_code == 500


def test_what_cannot_be_pushed(mine: EngineProcess) -> None:
    first, second, last = _push(mine, "x/nope")
    assert first == {"status": "retrieving manifest"}
    assert second == {"status": "couldn't retrieve manifest"}
    assert last["error"].startswith("open /")
    assert last["error"].endswith("x/nope/latest: no such file or directory")
    assert mine.post("/api/push", {}).json() == {"error": "model is required"}
    assert mine.post("/api/push", {"model": "a b"}).status_code == 400
    nobody = f"127.0.0.1:{free_port()}"
    mine.post("/api/copy", {"source": "smollm2:135m", "destination": f"{nobody}/ann/mine"})
    *_, gone = _push(mine, f"{nobody}/ann/mine")
    assert gone["error"].startswith(f'Head "http://{nobody}/v2/ann/mine/blobs/sha256:')
    assert gone["error"].endswith(f"dial tcp {nobody}: connect: connection refused")
