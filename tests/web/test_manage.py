"""Models managed through one ingress, on two replicas that have a model store each."""

import hashlib
import json
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from serve.ports import Call
from tests.embedded.engines import until
from tests.embedded.fake_registry import FakeRegistry, serving
from tests.embedded.weights import smollm2
from tests.twins import NAMES, Twins

pytestmark = pytest.mark.engine

MODEL = "smollm2:135m"
GREEDY = {"temperature": 0, "num_predict": 4}


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Twins]:
    with Twins(tmp_path_factory.mktemp("twins")) as running:
        yield running


@pytest.fixture
def registry() -> Generator[FakeRegistry, None, None]:
    with serving() as registry:
        yield registry


def send(twins: Twins, method: str, path: str, body: Any = None, **more: Any) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return httpx.request(
        method, twins.url + path, content=content, trust_env=False, timeout=120, **more
    )


def lines(answer: httpx.Response) -> list[dict[str, Any]]:
    assert answer.status_code == 200, answer.text
    return [json.loads(line) for line in answer.text.splitlines()]


def listed(twins: Twins) -> list[str]:
    return [row["name"] for row in send(twins, "GET", "/api/tags").json()["models"]]


def loaded(twins: Twins) -> dict[str, Any]:
    return {row["name"]: row for row in send(twins, "GET", "/api/ps").json()["models"]}


def listed_by(twins: Twins, name: str) -> set[str]:
    """What one replica's engine lists, whatever the other has."""

    async def read() -> set[str]:
        report = await twins.pool.replicas[name].report()
        return {model.rpartition("/")[2] for model in report.models}

    return twins.run(read())


def generate(twins: Twins, model: str) -> httpx.Response:
    body = {"model": model, "prompt": "Hello", "stream": False, "options": GREEDY}
    return send(twins, "POST", "/api/generate", body)


def test_a_pull_reaches_every_store_in_one_stream(twins: Twins, registry: FakeRegistry) -> None:
    body = {"model": registry.name, "insecure": True}
    told = lines(send(twins, "POST", "/api/pull", body))
    statuses = [line["status"] for line in told]
    assert statuses[0] == "pulling manifest"
    assert statuses[-3:] == ["verifying sha256 digest", "writing manifest", "success"]
    assert statuses.count("success") == 1
    layers = {line["digest"]: line for line in told if "digest" in line}
    assert len(layers) == 3
    assert all(line["completed"] == line["total"] for line in layers.values())
    for digest in layers:
        done = [line.get("completed", 0) for line in told if line.get("digest") == digest]
        assert done == sorted(set(done))
    name = f"{registry.host}/library/smollm2:135m"
    assert all(name.rpartition("/")[2] in listed_by(twins, each) for each in NAMES)
    assert listed(twins).count(name) == 1
    again = send(twins, "POST", "/api/pull", body | {"stream": False})
    assert (again.status_code, again.json()) == (200, {"status": "success"})
    assert send(twins, "DELETE", "/api/delete", {"model": name}).status_code == 200
    assert name not in listed(twins)


def test_what_both_refuse_is_refused_in_their_words(twins: Twins, registry: FakeRegistry) -> None:
    body = {"model": f"http://{registry.host}/library/nope", "insecure": True}
    told = lines(send(twins, "POST", "/api/pull", body))
    assert told == [
        {"status": "pulling manifest"},
        {"error": "pull model manifest: file does not exist"},
    ]
    refused = send(twins, "POST", "/api/pull", body | {"stream": False})
    assert (refused.status_code, refused.json()) == (500, told[1])
    invalid = send(twins, "POST", "/api/pull", {"model": "a b"})
    assert (invalid.status_code, invalid.json()) == (400, {"error": "invalid model name"})


def test_a_replica_that_dies_is_told_of_and_the_other_has_it(
    twins: Twins, registry: FakeRegistry
) -> None:
    body = {"model": registry.name, "insecure": True}
    name = f"{registry.host}/library/smollm2:135m"
    twins.pool.dead_paths.add("/api/pull")
    try:
        last = lines(send(twins, "POST", "/api/pull", body))[-1]
    finally:
        twins.pool.dead_paths.clear()
    assert "pull reached 1 of 2 model stores (r0)" in last["error"]
    assert "r1: " in last["error"]
    assert lines(send(twins, "POST", "/api/pull", body))[-1] == {"status": "success"}
    assert send(twins, "DELETE", "/api/delete", {"model": name}).status_code == 200


def test_a_model_made_anew_is_answered_anew(twins: Twins) -> None:
    """Between the two answers nothing is waited for: the change was acknowledged."""
    for system in ("Answer in French.", "Answer in capital letters."):
        made = {"model": "mario", "from": MODEL, "system": system}
        assert lines(send(twins, "POST", "/api/create", made))[-1] == {"status": "success"}
        first = generate(twins, "mario")
        assert first.status_code == 200
        assert "miss" in first.headers["x-rayllama-cache"]
        assert {"mario:latest"} <= listed_by(twins, "r0") & listed_by(twins, "r1")
    copied = send(twins, "POST", "/api/copy", {"source": "mario", "destination": "luigi"})
    assert (copied.status_code, copied.content) == (200, b"")
    assert all("luigi:latest" in listed_by(twins, each) for each in NAMES)
    for name in ("mario", "luigi"):
        assert send(twins, "DELETE", "/api/delete", {"model": name}).status_code == 200
    gone = send(twins, "DELETE", "/api/delete", {"model": "mario"})
    assert (gone.status_code, gone.json()) == (404, {"error": "model 'mario' not found"})
    shown = send(twins, "POST", "/api/show", {"model": "luigi"})
    assert (shown.status_code, shown.json()) == (404, {"error": "model 'luigi:latest' not found"})


def test_a_model_that_one_store_has_is_found_and_copied_there(twins: Twins) -> None:
    made = {"model": "alone", "from": MODEL, "system": "Be brief."}
    twins.pool.dead_paths.add("/api/create")
    try:
        send(twins, "POST", "/api/create", made)
        for name in NAMES[:1]:
            assert "alone:latest" in listed_by(twins, name)
    finally:
        twins.pool.dead_paths.clear()
    assert "alone:latest" in listed(twins)
    assert send(twins, "POST", "/api/show", {"model": "alone"}).status_code == 200
    copied = send(twins, "POST", "/api/copy", {"source": "alone", "destination": "other"})
    assert copied.status_code == 200
    for name in ("alone", "other"):
        assert send(twins, "DELETE", "/api/delete", {"model": name}).status_code == 200


def test_a_model_is_shown_to_the_client_that_asks(twins: Twins) -> None:
    """Ollama names it otherwise to GitHub Copilot; what one is shown, no other is."""
    for agent in ("GitHubCopilotChat/1", "curl/8", "GitHubCopilotChat/0.41.1"):
        headers = {"User-Agent": agent}
        shown = send(twins, "POST", "/api/show", {"model": MODEL}, headers=headers).json()
        is_named = shown["model_info"].get("general.basename") == MODEL
        assert is_named is agent.startswith("GitHubCopilotChat/")


def test_a_blob_is_brought_to_both_stores_and_a_model_made_of_it(twins: Twins) -> None:
    weights = smollm2().read_bytes()
    digest = "sha256:" + hashlib.sha256(weights).hexdigest()
    path = f"/api/blobs/{digest}"
    assert send(twins, "HEAD", path).status_code == 404
    stored = send(twins, "POST", path, weights)
    assert (stored.status_code, stored.content) == (201, b"")
    assert send(twins, "HEAD", path).status_code == 200
    assert send(twins, "POST", path, weights).status_code == 200
    made = {"model": "uploaded", "files": {"a.gguf": digest}}
    assert lines(send(twins, "POST", "/api/create", made))[-1] == {"status": "success"}
    assert generate(twins, "uploaded").json()["done"]
    assert send(twins, "DELETE", "/api/delete", {"model": "uploaded"}).status_code == 200


def test_a_name_in_no_utf_8_is_read_as_go_reads_it(twins: Twins) -> None:
    refused = send(twins, "DELETE", "/api/delete", b'{"model":"\xff"}')
    assert refused.json() == {"error": 'name "\ufffd" is invalid'}
    refused = send(twins, "POST", "/api/pull", b'{"model":"\xff"}')
    assert (refused.status_code, refused.json()) == (400, {"error": "invalid model name"})


def test_a_blob_of_other_bytes_is_refused(twins: Twins) -> None:
    digest = "sha256:" + "1" * 64
    refused = send(twins, "POST", f"/api/blobs/{digest}", b"other")
    assert refused.status_code == 400
    assert refused.json()["error"].startswith(f'digest mismatch, expected "{digest}", got "sha256:')
    lacking = send(twins, "HEAD", f"/api/blobs/{digest}")
    assert lacking.status_code == 404
    assert lacking.headers["content-type"] == "application/json; charset=utf-8"
    assert send(twins, "HEAD", "/api/blobs/sha256:zz").status_code == 400
    assert send(twins, "POST", "/api/blobs/..%2f..%2fetc", b"x").status_code in (400, 404)


def test_what_is_loaded_is_a_row_a_model_and_stop_reaches_all(twins: Twins) -> None:
    async def load() -> None:
        body = json.dumps({"model": MODEL}).encode()
        for name in NAMES:
            async for _ in twins.pool.stream(
                Call("POST", "/api/generate", body, "id", replica=name)
            ):
                pass

    twins.run(load())
    assert loaded(twins)[MODEL]["replicas"] == 2
    stopped = send(twins, "POST", "/api/generate", {"model": MODEL, "keep_alive": 0})
    assert stopped.json()["done_reason"] == "unload"
    until(
        lambda: MODEL not in loaded(twins), 30
    )  # the runner is listed until its process has ended


def test_only_an_admins_key_changes_models(tmp_path: Path) -> None:
    keys = [
        {"sha256": hashlib.sha256(name.encode()).hexdigest(), "tenant": name, "admin": is_admin}
        for name, is_admin in (("boss", True), ("guest", False))
    ]
    with Twins(tmp_path, auth={"keys": keys}) as twins:
        for method, path in (
            ("POST", "/api/pull"),
            ("POST", "/api/push"),
            ("POST", "/api/create"),
            ("POST", "/api/copy"),
            ("DELETE", "/api/delete"),
            ("POST", f"/api/blobs/sha256:{'0' * 64}"),
        ):
            statuses = [
                send(twins, method, path, {}, headers=headers).status_code
                for headers in ({}, {"x-api-key": "guest"}, {"x-api-key": "boss"})
            ]
            assert statuses[:2] == [401, 403], path
            assert statuses[2] not in (401, 403), path
        key = {"x-api-key": "guest"}
        assert send(twins, "GET", "/api/tags", headers=key).status_code == 200
