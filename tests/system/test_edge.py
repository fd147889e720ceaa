"""The edge on real Ray and Serve: what is killed, reloaded or changed under load."""

import hashlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import yaml

from tests.system.conftest import PROJECT, URL, System, wait_for
from tests.system.hot import EDGE, MODEL, ask, generation, load, until_edge

pytestmark = [pytest.mark.ray, pytest.mark.slow]

ADMIN = "http://127.0.0.1:8001"


def test_stats_and_explain_tell_of_it(system: System, http: httpx.Client) -> None:
    body = generation("What is told of the edge?")
    until_edge(http, body)
    (node,) = httpx.get(ADMIN + "/admin/cache/stats", timeout=20).json()["edge"]
    assert node["reason"] == ""
    assert node["entries"] > 0
    assert 0 < node["lease_left_s"] <= node["lease_s"]
    asked = {"path": "/api/generate", "body": body}
    told = httpx.post(ADMIN + "/admin/cache/explain", json=asked, timeout=20).json()
    assert [place["is_there"] for place in told["edge"]] == [True]
    asked["body"] = generation("Never asked.")
    told = httpx.post(ADMIN + "/admin/cache/explain", json=asked, timeout=20).json()
    assert [place["is_there"] for place in told["edge"]] == [False]
    assert told["edge"][0]["why"].startswith("not told of")


def test_a_changed_model_is_answered_anew(system: System, http: httpx.Client) -> None:
    name, made = "edge-changed", {"from": MODEL, "stream": False}
    body = generation("Who is there?", name)
    for number in range(5):
        system_text = f"You are number {number}."
        created = http.post("/api/create", json={"model": name, "system": system_text, **made})
        assert created.status_code == 200, created.text
        assert not ask(http, body).headers["x-rayllama-cache"].startswith("hit")
        until_edge(http, body)
    assert http.request("DELETE", "/api/delete", json={"model": name}).status_code == 200
    assert ask(http, body).status_code == 404


@pytest.mark.parametrize("change", ["purge", "pause", "create", "copy", "delete"])
def test_what_was_changed_under_load_is_never_answered_from_before(
    system: System, http: httpx.Client, change: str
) -> None:
    name, other = f"edge-{change}", f"edge-{change}-other"
    for one in (name, other):
        made = {"model": one, "from": MODEL, "system": f"You are {one}.", "stream": False}
        assert http.post("/api/create", json=made).status_code == 200
    body = generation("Who are you?", name)
    old = until_edge(http, body).json()["created_at"]
    changes: dict[str, Callable[[], httpx.Response]] = {
        "purge": lambda: httpx.post(
            ADMIN + "/admin/cache/purge", json={"model": name, "dry_run": False}
        ),
        "pause": lambda: httpx.post(ADMIN + "/admin/cache/pause"),
        "create": lambda: http.post("/api/create", json={**made, "model": name}),
        "copy": lambda: http.post("/api/copy", json={"source": other, "destination": name}),
        "delete": lambda: http.request("DELETE", "/api/delete", json={"model": name}),
    }
    with load([URL], body) as asking:
        wait_for(lambda: asking.answers > 100)
        assert changes[change]().status_code == 200
        changed = time.monotonic()
        wait_for(lambda: len(asking.asked_since(changed)) > 100)
    httpx.post(ADMIN + "/admin/cache/resume")
    for one in (name, other):  # `delete` has deleted one already
        http.request("DELETE", "/api/delete", json={"model": one})
    assert any(made_at == old for _, made_at in asking.seen)
    assert old not in asking.asked_since(changed)


@pytest.mark.parametrize(
    "title", ["ray::Edge", "ray::Cache", "ray::ServeReplica:rayllama:Ingress", "rayllama-edge"]
)
def test_what_is_killed_under_load_costs_no_right_answer(
    system: System, http: httpx.Client, title: str
) -> None:
    """The feeder; the shard; an ingress, which makes Serve reload HAProxy; HAProxy itself."""
    body = generation(f"What is left when {title} dies?")
    right = until_edge(http, body).content
    with load([URL], body, right) as asking:
        victim = next(iter(system.named(title)))
        victim.kill()
        victim.wait(20)
        before = asking.answers
        wait_for(lambda: asking.answers > before + 100, 60)
        until_edge(http, generation("What is there anew?"))
    if title != "ray::Cache":  # a new shard knows nothing: it is computed anew, with another date
        assert asking.wrong == []
    if title == "ray::Edge":
        assert asking.unanswered == 0


def test_redeploys_under_load_fail_no_request(
    system: System, http: httpx.Client, tmp_path: Path
) -> None:
    """One ingress less, and one more: HAProxy is reloaded each time, and fed again."""
    body = generation("What is left after a redeploy?")
    right = until_edge(http, body).content
    with load([URL], body, right) as asking:
        for replicas in (1, 2):
            before = {process.pid for process in system.named("rayllama-edge")}
            deploy(tmp_path / "redeployed.yaml", replicas)
            wait_for(lambda: {p.pid for p in system.named("rayllama-edge")} - before, 120)  # noqa: B023
            wait_for(lambda: len(system.named("ServeReplica:rayllama:Ingress")) == replicas, 120)  # noqa: B023
            until_edge(http, generation(f"What is there with {replicas}?"))
    assert asking.wrong == []
    assert asking.unanswered == 0
    assert asking.answers > 100


@contextmanager
def upload(key: str) -> Iterator[None]:
    """One that doesn't end: the ingress that has it drains as long as it takes."""
    head = (
        f"POST /api/blobs/sha256:{'0' * 64} HTTP/1.1\r\nHost: 127.0.0.1:8000\r\n"
        f"Authorization: Bearer {key}\r\nContent-Length: 1000000\r\n\r\nabc"
    )
    with socket.create_connection(("127.0.0.1", 8000)) as connection:
        connection.sendall(head.encode())
        yield
        connection.settimeout(0.1)
        with pytest.raises(TimeoutError):  # it is still open
            connection.recv(1)


def test_a_revoked_key_gets_nothing_more_while_an_old_ingress_drains(
    system: System, tmp_path: Path
) -> None:
    """Two versions side by side, each with a feeder: the later one has the proxy, and keeps it."""
    key_a, key_b = "a" * 40, "b" * 40
    hot = generation("Who may see this?")
    with (
        httpx.Client(base_url=URL, timeout=60, headers={"Authorization": f"Bearer {key_a}"}) as a,
        httpx.Client(base_url=URL, timeout=60, headers={"x-api-key": key_b}) as b,
    ):
        deploy(tmp_path / "both.yaml", 1, [key_a, key_b])
        wait_for(lambda: httpx.post(URL + "/api/generate", json=hot).status_code == 401, 120)
        until_edge(a, hot)
        with upload(key_a):
            deploy(tmp_path / "one.yaml", 1, [key_b])
            asked: list[int] = []

            def is_revoked() -> bool:
                cold = generation(f"Is it revoked? {len(asked)}")
                asked.append(ask(a, cold).status_code)
                return asked[-1] == 401

            wait_for(is_revoked, 120)
            for _ in range(50):
                assert ask(a, hot).status_code == 401
            until_edge(b, hot)
            kept_until = time.monotonic() + 5
            while time.monotonic() < kept_until:
                assert ask(b, hot).headers["x-rayllama-cache"] == EDGE
            assert ask(a, hot).status_code == 401
    deploy(tmp_path / "open.yaml", 2)


def deploy(path: Path, ingresses: int, keys: Sequence[str] = ()) -> None:
    """`serve deploy` of local.yaml with so many ingresses, as an operator would."""
    data = yaml.safe_load((PROJECT / "configs" / "local.yaml").read_text())
    (application,) = data["applications"]
    (ingress,) = application["deployments"]
    ingress["num_replicas"] = ingresses
    if keys:
        application["args"]["ingress"]["drain_timeout_s"] = 120
        known = [hashlib.sha256(key.encode()).hexdigest() for key in keys]
        application["args"]["auth"] = {
            "keys": [{"sha256": one, "tenant": "ours", "admin": True} for one in known]
        }
    path.write_text(yaml.safe_dump(data))
    serve = Path(sys.executable).with_name("serve")
    done = subprocess.run(
        [serve, "deploy", path],
        env=os.environ | {"RAY_AUTH_MODE": "token"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
