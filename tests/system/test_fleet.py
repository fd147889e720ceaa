"""Two pools on a cluster of several raylets: who answers what, who waits, and a lost scheduler."""

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import psutil
import pytest

from serve.bench.cluster import Cluster
from serve.settings import Settings
from tests.system.conftest import wait_for

pytestmark = [pytest.mark.ray, pytest.mark.slow]

CHAT, EMBED = "smollm2:135m", "all-minilm"
SETTINGS = {
    "inference": {"engine": "embedded", "num_cpus": 0, "context_length": 2048},
    "pools": {
        "chat": {"models": [CHAT], "serves": ["smollm2"], "replicas": 2, "slots": 2},
        "embed": {"models": [EMBED], "num_gpus": 0, "slots": 1},
    },
    "embedded": {"threads": 1},
    "ingress": {"replicas": 2, "num_cpus": 0},
    "admin": {"port": 0},
}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster(Settings.model_validate(SETTINGS), nodes=2) as running:
        wait_for(lambda: status(running) == 200, 120)
        yield running


def status(cluster: Cluster) -> int:
    try:
        return httpx.get(f"{cluster.url}/readyz", timeout=6).status_code
    except httpx.TransportError:
        return 0


def generate(cluster: Cluster, model: str = CHAT, **options: Any) -> httpx.Response:
    body = {"model": model, "prompt": "A story", "stream": False}
    given = {"num_predict": 8, "temperature": 1} | options
    return httpx.post(f"{cluster.url}/api/generate", json=body | {"options": given}, timeout=120)


def embed(cluster: Cluster, text: str) -> httpx.Response:
    body = {"model": EMBED, "input": text}
    return httpx.post(f"{cluster.url}/api/embed", json=body, timeout=120)


def test_each_pool_answers_for_its_models_and_both_are_cached(cluster: Cluster) -> None:
    pools = cluster.pools()
    assert sorted(pools.values()) == ["Inference-chat", "Inference-chat", "Inference-embed"]
    assert len({node for name, node in cluster.replicas().items() if "chat" in pools[name]}) == 2
    said = generate(cluster)
    assert pools[said.headers["x-rayllama-replica"]] == "Inference-chat"
    assert pools[embed(cluster, "one").headers["x-rayllama-replica"]] == "Inference-embed"
    missing = generate(cluster, "llama3.2:1b")
    assert (missing.status_code, missing.json()) == (
        404,
        {"error": "model 'llama3.2:1b' not found"},
    )
    # Their engines differ in slots, not in what decides answers; each pool vouches for its models.
    wait_for(lambda: "hit" in embed(cluster, "two").headers["x-rayllama-cache"])
    wait_for(lambda: "hit" in generate(cluster, temperature=0).headers["x-rayllama-cache"])


def test_who_finds_all_slots_taken_waits_its_turn(cluster: Cluster) -> None:
    with ThreadPoolExecutor(12) as clients:
        asked = [clients.submit(generate, cluster, num_predict=24) for _ in range(12)]
        answers = [each.result() for each in asked]
    assert {each.status_code for each in answers} == {200}
    assert len({each.headers["x-rayllama-replica"] for each in answers}) == 2
    assert any(int(each.headers["x-rayllama-queue-position"]) > 0 for each in answers)
    assert {each.headers["x-rayllama-model-state"] for each in answers} == {"loaded"}


def test_a_lost_scheduler_costs_no_request(cluster: Cluster) -> None:
    family = psutil.Process(cluster.pid).children(recursive=True)
    lost = [each for each in family if "ray::Scheduler" in " ".join(each.cmdline())]
    assert len(lost) == 2
    with ThreadPoolExecutor(8) as clients:
        asked = [clients.submit(generate, cluster, num_predict=48) for _ in range(8)]
        for each in lost:
            os.kill(each.pid, signal.SIGKILL)
        asked += [clients.submit(generate, cluster, num_predict=8) for _ in range(8)]
        answers = [each.result() for each in asked]
    assert {each.status_code for each in answers} == {200}
    # Serve recreates it, and the replicas tell it what they have.
    wait_for(lambda: generate(cluster).headers.get("x-rayllama-model-state") == "loaded", 90)
