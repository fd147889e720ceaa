"""Rayllama on three boxes, each with an HAProxy: the edge of every one of them."""

import hashlib
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import httpx
import psutil
import pytest

from tests.system.boxes import Boxes, is_possible
from tests.system.conftest import wait_for
from tests.system.hot import EDGE, MODEL, ask, generation, is_edge, load, until_edge

pytestmark = [pytest.mark.ray, pytest.mark.slow]

KEY = {"Authorization": "Bearer " + "a" * 40}
REVOKED = {"Authorization": "Bearer " + "b" * 40}
NAMED = {"Host": "rayllama.example"}
"""As from behind a load balancer: `Host` is in an answer's key."""


def settings(*keys: dict[str, str]) -> dict[str, Any]:
    """Two ingresses for three boxes, so that one has a proxy alone; two GPUs."""
    known = [key["Authorization"].removeprefix("Bearer ").encode() for key in keys]
    return {
        "inference": {
            "engine": "embedded",
            "replicas": 2,
            "num_gpus": 1,
            "num_cpus": 0,
            "context_length": 2048,
            "models": [MODEL],
        },
        "ingress": {"replicas": 2},
        "admin": {"host": "0.0.0.0"},
        "auth": {
            "keys": [
                {"sha256": hashlib.sha256(key).hexdigest(), "tenant": "ours", "admin": True}
                for key in known
            ]
        },
    }


@pytest.fixture(scope="module")
def boxes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Boxes]:
    if not is_possible():
        pytest.skip("takes root, `ip`, `unshare` and network namespaces")
    running = Boxes(tmp_path_factory.mktemp("boxes"), cpus=[1, 1, 0])
    try:
        running.build()
        running.deploy(settings(KEY, REVOKED))
        yield running
    finally:
        running.clear()


@pytest.fixture
def https(boxes: Boxes) -> Iterator[list[httpx.Client]]:
    """A client of each box."""
    with ExitStack() as stack:
        yield [
            stack.enter_context(
                httpx.Client(base_url=boxes.url(number), headers=KEY | NAMED, timeout=60)
            )
            for number in boxes.numbers
        ]


def until_all_edge(https: Sequence[httpx.Client], body: dict[str, Any]) -> httpx.Response:
    """The answer, which is the same at all."""
    first, *others = [until_edge(http, body) for http in https]
    assert all(other.content == first.content for other in others)
    return first


def purge(boxes: Boxes, model: str) -> None:
    url = boxes.admin + "/admin/cache/purge"
    which = {"model": model, "dry_run": False}
    answer = httpx.post(url, json=which, headers=KEY, timeout=60)
    assert answer.status_code == 200, answer.text


def create(http: httpx.Client, name: str, number: int) -> None:
    made = {"model": name, "from": MODEL, "system": f"You are {number}.", "stream": False}
    answer = http.post("/api/create", json=made)
    assert answer.status_code == 200, answer.text


def test_what_is_hot_at_one_box_is_at_all(boxes: Boxes, https: list[httpx.Client]) -> None:
    body = generation("Who has heard of it?")
    told, others = until_edge(https[0], body), https[1:]
    wait_for(lambda: all(is_edge(ask(http, body)) for http in others), 5)
    assert {ask(http, body).content for http in https} == {told.content}
    stats = httpx.get(boxes.admin + "/admin/cache/stats", headers=KEY, timeout=20).json()
    assert [node["reason"] for node in stats["edge"]] == ["", "", ""]


def test_what_was_changed_is_at_none_when_that_is_acknowledged(
    boxes: Boxes, https: list[httpx.Client]
) -> None:
    body = generation("Who are you?", "changed")
    create(https[0], "changed", 0)
    with load([boxes.url(number) for number in boxes.numbers], body, headers=KEY | NAMED) as asking:
        for number in range(1, 6):
            old = until_all_edge(https, body).json()["created_at"]
            create(https[number % 3], "changed", number)
            changed = time.monotonic()
            wait_for(lambda: len(asking.asked_since(changed)) > 300)  # noqa: B023
            assert old not in asking.asked_since(changed)
    assert https[0].request("DELETE", "/api/delete", json={"model": "changed"}).status_code == 200


def test_a_box_that_is_cut_off_gives_nothing_more_after_a_change(
    boxes: Boxes, https: list[httpx.Client]
) -> None:
    """Its own clients still reach its proxy, which nobody else does: its lease must end."""
    body = generation("Who is cut off?", "cut-off")
    create(https[0], "cut-off", 0)
    until_all_edge(https, body)
    victim = 3 if where_the_shard_is(boxes) != 3 else 2
    inside = [sys.executable, "-c", ASK_INSIDE, json.dumps(KEY | NAMED), json.dumps(body)]
    assert EDGE in boxes.run(victim, inside)
    boxes.cut(victim)
    try:
        purge(boxes, "cut-off")
        assert "hit" not in boxes.run(victim, inside)
    finally:
        boxes.mend(victim)
    wait_for(lambda: is_edge(ask(https[victim - 1], body)), 60)
    assert https[0].request("DELETE", "/api/delete", json={"model": "cut-off"}).status_code == 200


def where_the_shard_is(boxes: Boxes) -> int:
    """On which box; Ray spreads them."""
    found = [number for number in boxes.numbers if boxes.titled(number, "ray::Cache")]
    assert len(found) == 1
    return found[0]


ASK_INSIDE = """
import json, sys, httpx
headers, body = map(json.loads, sys.argv[1:])
try:
    answer = httpx.post("http://127.0.0.1:8000/api/generate", json=body, headers=headers, timeout=3)
    print("answered", answer.headers.get("x-rayllama-cache"))
except httpx.TransportError as error:
    print("unanswered", type(error).__name__)
"""


def test_a_new_version_takes_over_every_box(boxes: Boxes, https: list[httpx.Client]) -> None:
    body = generation("Who may see it?")
    with httpx.Client(base_url=boxes.url(3), headers=REVOKED | NAMED, timeout=60) as revoked:
        until_edge(revoked, body)
        boxes.deploy(settings(KEY))
        for number in boxes.numbers:
            asked = httpx.post(
                boxes.url(number) + "/api/generate", json=body, headers=REVOKED | NAMED, timeout=60
            )
            assert asked.status_code == 401
    until_all_edge(https, body)


def is_answered_at_edge(http: httpx.Client, body: dict[str, Any]) -> bool:
    try:
        return is_edge(ask(http, body))
    except httpx.TransportError:
        return False


def test_a_box_that_comes_back_is_fed(boxes: Boxes, https: list[httpx.Client]) -> None:
    body = generation("Who comes back?")
    until_all_edge(https, body)
    boxes.lose_power(3)
    boxes.start(3)
    wait_for(lambda: is_answered_at_edge(https[2], body), 180)


def test_a_cluster_that_lost_its_head_is_started_again(
    boxes: Boxes, https: list[httpx.Client]
) -> None:
    """The others' HAProxies are left behind, on the ports of the new ones."""
    others = boxes.numbers[1:]
    boxes.lose_power(1)
    raylets = [process for number in others for process in boxes.titled(number, "raylet/raylet")]
    assert psutil.wait_procs(raylets, timeout=120)[1] == []
    left = [process for number in others for process in boxes.titled(number, "/bin/haproxy")]
    assert left != []
    for number in boxes.numbers:
        boxes.start(number)
    boxes.deploy(settings(KEY))
    until_all_edge(https, generation("Who is the head?"))
    assert psutil.wait_procs(left, timeout=60)[1] == []
