"""Parts of a running Rayllama killed: what is lost with them, and that they come back."""

import os
import signal
from typing import Any

import httpx
import psutil
import pytest

from tests.system.conftest import URL, System, wait_for

pytestmark = [pytest.mark.ray, pytest.mark.slow]

RECOVERS_WITHIN_S = 120


def ask(prompt: str = "Are you there?", **more: Any) -> httpx.Response:
    body = {
        "model": "smollm2:135m",
        "prompt": prompt,
        "stream": False,
        "options": {"temperature": 0, "num_predict": 4},
    }
    return httpx.post(URL + "/api/generate", json=body | more, timeout=60)


def answers() -> bool:
    try:
        return ask("Are you back?").status_code == 200
    except httpx.TransportError:
        return False


def is_cached() -> bool:
    return ask().headers["x-rayllama-cache"].startswith("hit")


def only(processes: list[psutil.Process]) -> psutil.Process:
    (process,) = processes
    return process


def test_the_cache_actor_costs_only_warmth(system: System) -> None:
    wait_for(is_cached)
    actor = only(system.named("ray::Cache"))
    os.kill(actor.pid, signal.SIGKILL)
    wait_for(lambda: not actor.is_running() or actor.status() == psutil.STATUS_ZOMBIE)
    for _ in range(20):
        assert ask().status_code == 200
    wait_for(lambda: system.named("ray::Cache"), RECOVERS_WITHIN_S)
    wait_for(is_cached, RECOVERS_WITHIN_S)


def test_an_engine_is_restarted_in_its_replica(system: System) -> None:
    replica = only(system.named("ray::ServeReplica:rayllama:Inference"))
    engines = [p for p in replica.children(recursive=True) if "serve.embedded" in p.cmdline()]
    for engine in engines:
        engine.kill()
    wait_for(answers, RECOVERS_WITHIN_S)
    assert only(system.named("ray::ServeReplica:rayllama:Inference")).pid == replica.pid


def test_a_lost_inference_replica_takes_its_engine_along_and_is_replaced(system: System) -> None:
    replica = only(system.named("ray::ServeReplica:rayllama:Inference"))
    below = replica.children(recursive=True)
    assert below
    os.kill(replica.pid, signal.SIGKILL)
    _, alive = psutil.wait_procs(below, timeout=20)
    assert [p for p in alive if p.status() != psutil.STATUS_ZOMBIE] == []
    wait_for(answers, RECOVERS_WITHIN_S)
    wait_for(is_cached, RECOVERS_WITHIN_S)


def test_a_lost_ingress_replica_is_not_missed(system: System) -> None:
    wait_for(lambda: len(system.named("ray::ServeReplica:rayllama:Ingress")) == 2)
    os.kill(system.named("ray::ServeReplica:rayllama:Ingress")[0].pid, signal.SIGKILL)
    wait_for(answers)
    for _ in range(20):
        assert ask().status_code == 200
    wait_for(
        lambda: len(system.named("ray::ServeReplica:rayllama:Ingress")) == 2, RECOVERS_WITHIN_S
    )
    assert ask().status_code == 200
