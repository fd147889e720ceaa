"""Loading, sharing, expiring, evicting and reloading real models."""

import threading
from collections.abc import Generator
from pathlib import Path

import httpx
import pytest

from tests.embedded.clients import counting, send
from tests.embedded.engines import EngineProcess, is_alive, running, until

pytestmark = pytest.mark.engine


@pytest.fixture
def small(tmp_path: Path) -> Generator[EngineProcess, None, None]:
    """An engine with room for one model."""
    with running(tmp_path, OLLAMA_MAX_LOADED_MODELS="1", OLLAMA_MAX_QUEUE="1") as engine:
        yield engine


def _load(engine: EngineProcess, **more: object) -> httpx.Response:
    return engine.post("/api/generate", {"model": "smollm2:135m"} | more)


def test_loads_evicts_and_reloads_are_processes_that_come_and_go(small: EngineProcess) -> None:
    _load(small)
    first = small.runner("smollm2")["pid"]
    _load(small, options={"num_ctx": 4096})
    assert small.runner("smollm2")["pid"] == first, "what it has already needs no reload"
    _load(small, options={"num_ctx": 512})
    second = small.runner("smollm2")
    assert (second["context"], is_alive(first)) == (512, False)
    small.post("/api/embed", {"model": "all-minilm"})
    assert [one["name"] for one in small.status()["loaded"]] == [
        "registry.ollama.ai/library/all-minilm:latest"
    ]
    assert not is_alive(second["pid"])
    counters = small.counters()
    assert counters == {
        "loads": 3,
        "failed_loads": 0,
        "unloads": 2,
        "evictions": 1,
        "reloads": 1,
        "deaths": 0,
    }


def test_a_context_beyond_the_models_own_is_the_models_own(small: EngineProcess) -> None:
    _load(small, options={"num_ctx": 8192})
    _load(small, options={"num_ctx": 100_000})
    assert small.runner("smollm2")["context"] == 8192
    assert small.counters()["loads"] == 1


def test_a_model_that_must_leave_finishes_what_it_has_begun(small: EngineProcess) -> None:
    _load(small)
    answers: list[httpx.Response] = []
    body = counting(120, stream=False)
    thread = threading.Thread(target=lambda: answers.append(small.post("/api/generate", body)))
    thread.start()
    until(lambda: small.runner("smollm2")["busy"] == 1)
    assert small.post("/api/embed", {"model": "all-minilm"}).status_code == 200
    thread.join()
    assert answers[0].json()["eval_count"] == 120
    assert small.counters()["evictions"] == 1


def test_keep_alive_0_unloads_after_use_and_a_duration_after_that(small: EngineProcess) -> None:
    _load(small, prompt="Hi", stream=False, keep_alive=0, options={"num_predict": 1})
    until(lambda: small.counters()["unloads"] == 1)
    _load(small, keep_alive="100ms")
    until(lambda: small.counters()["unloads"] == 2)
    assert small.get("/api/ps").json() == {"models": []}


def test_a_model_that_is_in_use_does_not_expire(small: EngineProcess) -> None:
    _load(small, keep_alive="1ms", prompt="Hi", stream=False, options={"num_predict": 1})
    until(lambda: small.counters()["unloads"] == 1)
    connection = send(small.port, "/api/generate", counting(100_000, keep_alive="1ms"))
    until(lambda: small.status()["loaded"] and small.runner("smollm2")["busy"] == 1)
    small.post("/api/generate", {"model": "smollm2:135m", "keep_alive": 0})
    assert small.runner("smollm2")["uses"] == 1
    connection.close()
    until(lambda: small.counters()["unloads"] == 2)


def test_a_load_goes_on_when_its_client_leaves(small: EngineProcess) -> None:
    connection = send(small.port, "/api/generate", counting(10))
    until(lambda: small.status()["waiting"] == 1)
    connection.close()
    until(lambda: small.counters()["loads"] == 1)
    until(lambda: small.runner("smollm2")["uses"] == 0)
    assert small.get("/api/ps").json()["models"][0]["name"] == "smollm2:135m"


def test_too_many_requests_for_loads_are_refused_and_loaded_models_are_not(
    small: EngineProcess,
) -> None:
    def answers() -> list[int]:
        statuses: list[int] = []
        body = counting(1, stream=False)

        def ask() -> None:
            statuses.append(small.post("/api/generate", body).status_code)

        threads = [threading.Thread(target=ask) for _ in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sorted(statuses)

    assert answers() == [200] * 2 + [503] * 10
    assert answers() == [200] * 12


def test_two_names_of_one_model_share_its_runner(engine: EngineProcess) -> None:
    _load(engine)
    pid = engine.runner("smollm2")["pid"]
    engine.post("/api/generate", {"model": "SmolLM2"})
    assert engine.runner("smollm2")["pid"] == pid
