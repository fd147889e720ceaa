"""An engine that hangs, fails or loses its GPU on demand, and a canary with short limits."""

import json
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from serve.errors import EngineDied, EngineNotReady
from serve.ollama.canary import Canary
from serve.ollama.gate import Gate
from serve.ollama.restarts import Cause
from serve.ollama.supervisor import Supervisor
from serve.settings import InferenceSettings, Settings
from tests.ollama.engines import collect, faulty, generate, until

SOON: dict[str, Any] = {"canary_after_s": 0.2, "canary_timeout_s": 0.4, "stall_timeout_s": 1}
FOREVER = "2318-01-01T00:00:00Z"


@asynccontextmanager
async def watched(
    settings: Settings, causes: list[Cause] | None = None
) -> AsyncGenerator[tuple[Supervisor, Gate], None]:
    inference = settings.inference
    gate = Gate(inference.slots, inference.max_queue)
    heard = [] if causes is None else causes
    async with Supervisor(settings, on_restart=heard.append) as supervisor:
        canary = Canary(supervisor, gate, inference)
        canary.start()
        try:
            yield supervisor, gate
        finally:
            await canary.stop()
            await canary.stop()


def lists(scratch: Path, *, expires_at: str = FOREVER, size_vram: int = 1) -> None:
    """What is loaded: `/api/ps`, written at once."""
    row = {"model": "faulty:latest", "name": "faulty:latest", "size": 1, "digest": "d1"}
    rows = [row | {"expires_at": expires_at, "size_vram": size_vram, "context_length": 4096}]
    draft = scratch / "ps.draft"
    draft.write_text(json.dumps(rows))
    draft.rename(scratch / "ps")


def wedge(scratch: Path, who: object) -> None:
    draft = scratch / "wedged.draft"
    draft.write_text(str(who))
    draft.rename(scratch / "wedged")


def canaries(scratch: Path) -> list[tuple[str, dict[str, Any]]]:
    path = scratch / "canaries"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


async def test_an_idle_engine_is_asked_for_one_token_as_it_was_last_called(tmp_path: Path) -> None:
    lists(tmp_path)
    async with watched(faulty(tmp_path, models=["faulty"], **SOON)) as (supervisor, gate):
        await until(lambda: len(canaries(tmp_path)) == 1)
        await collect(supervisor.stream(generate(options={"num_ctx": 512, "seed": 3})))
        await until(lambda: len(canaries(tmp_path)) >= 3)
        assert supervisor.restarts.count == 0
        await until(lambda: gate.at_work == 0)
    (path, first), *_, (_, last) = canaries(tmp_path)
    assert path == "/api/generate"
    assert "keep_alive" not in first
    assert first["options"] == {"num_predict": 1, "temperature": 0}
    assert last["options"] == {"num_ctx": 512, "num_predict": 1, "temperature": 0}


async def test_a_model_that_only_embeds_is_asked_for_an_embedding(tmp_path: Path) -> None:
    lists(tmp_path)
    settings = faulty(tmp_path, "embeds_only", models=["faulty"], **SOON)
    async with watched(settings) as (supervisor, _):
        await until(lambda: len(canaries(tmp_path)) >= 3)
        assert supervisor.restarts.count == 0
    assert [path for path, _ in canaries(tmp_path)[:3]] == [
        "/api/generate",
        "/api/embed",
        "/api/embed",
    ]


@pytest.mark.parametrize("reason", ["unloads when idle", "not loaded", "not called by us"])
async def test_nothing_is_loaded_or_kept_by_a_canary(tmp_path: Path, reason: str) -> None:
    if reason == "not loaded":
        (tmp_path / "ps").write_text("[]")
    else:
        lists(tmp_path, expires_at="2026-01-01T00:00:00Z" if "idle" in reason else FOREVER)
    models = [] if "by us" in reason else ["faulty"]
    async with watched(faulty(tmp_path, models=models, **SOON)) as (supervisor, _):
        vitals = supervisor.pulse.vitals
        # Looked at, and let be: twice.
        for _ in range(2):
            before = vitals._not_before
            await until(lambda before=before: vitals._not_before > before)  # type: ignore[misc]
        assert supervisor.restarts.count == 0
    assert canaries(tmp_path) == []


async def test_a_wedged_engine_is_restarted_and_who_waits_is_answered(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lists(tmp_path)
    causes: list[Cause] = []
    async with watched(faulty(tmp_path, "runner", models=["faulty"], **SOON), causes) as (
        supervisor,
        gate,
    ):
        wedge(tmp_path, supervisor.engine_pid)
        await supervisor.check()  # which says nothing
        await until(lambda: supervisor.restarts.count == 1)
        _, body, _ = await collect(supervisor.stream(generate()))
        assert b'"done":true' in body
        await supervisor.check()
        await until(lambda: gate.at_work == 0)
        assert causes == ["wedged"]
        assert supervisor.last_error.startswith("the engine is wedged: no sign of life for ")
    errors = [each.getMessage() for each in caplog.records if each.levelno == logging.ERROR]
    assert errors == [supervisor.last_error]


async def test_calls_in_all_slots_that_get_nothing_are_noticed_past_the_gate(
    tmp_path: Path,
) -> None:
    lists(tmp_path)
    async with watched(faulty(tmp_path, models=["faulty"], slots=1, **SOON)) as (supervisor, gate):
        async with gate, aclosing(supervisor.stream(generate("stall"))) as frames:
            await anext(frames)
            await anext(frames)
            # A byte has come; now nothing more does, but a canary is answered.
            await until(lambda: len(canaries(tmp_path)) >= 2)
            assert supervisor.restarts.count == 0
            wedge(tmp_path, supervisor.engine_pid)
            await until(lambda: supervisor.restarts.count == 1)
        await collect(supervisor.stream(generate()))


async def test_an_engine_that_stays_wedged_is_given_up(tmp_path: Path) -> None:
    lists(tmp_path)
    async with watched(faulty(tmp_path, max_restarts=1, **SOON)) as (supervisor, _):
        await collect(supervisor.stream(generate()))  # so that it is known
        wedge(tmp_path, "all")
        await until(lambda: supervisor.restarts.count == 1)
        with pytest.raises(EngineDied):  # sent to the second one, which hangs too
            await collect(supervisor.stream(generate()))
        with pytest.raises(EngineNotReady, match="is wedged"):
            await collect(supervisor.stream(generate()))
        with pytest.raises(EngineNotReady, match="died 2 times"):
            await supervisor.check()


async def test_an_engine_that_answers_with_errors_alone_is_restarted(tmp_path: Path) -> None:
    lists(tmp_path)
    causes: list[Cause] = []
    settings = faulty(tmp_path, "canary_fails", models=["faulty"], **SOON)
    async with watched(settings, causes) as (supervisor, _):
        await until(lambda: supervisor.restarts.count >= 1)
        assert len(canaries(tmp_path)) >= 3
    assert set(causes) == {"wedged"}


async def test_an_attached_engine_that_is_wedged_fails_the_check(tmp_path: Path) -> None:
    lists(tmp_path)
    async with Supervisor(faulty(tmp_path)) as owner:
        url = (await owner.ready()).base_url
        inference = InferenceSettings(engine="attach", url=url, models=["faulty"], **SOON)
        async with watched(Settings(inference=inference)) as (supervisor, _):
            wedge(tmp_path, "all")
            await until(lambda: not supervisor.is_up)
            with pytest.raises(EngineNotReady, match="is wedged"):
                await supervisor.check()
            (tmp_path / "wedged").unlink()


async def test_a_model_that_fell_to_the_cpu_is_replaced_where_a_gpu_is_required(
    tmp_path: Path,
) -> None:
    lists(tmp_path)
    causes: list[Cause] = []
    settings = faulty(tmp_path, "gpu", models=["faulty"], require_gpu=True, **SOON)
    async with watched(settings, causes) as (supervisor, _):
        assert supervisor.has_gpu
        lists(tmp_path, size_vram=0)
        await until(lambda: supervisor.restarts.count >= 1)
        lists(tmp_path)
        assert supervisor.last_error == (
            "the engine found a GPU when it started, and has faulty:latest on the CPU"
        )
        await collect(supervisor.stream(generate()))
    assert set(causes) == {"fell_to_cpu"}


async def test_elsewhere_a_fall_is_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lists(tmp_path, size_vram=0)
    async with watched(faulty(tmp_path, "gpu", models=["faulty"], **SOON)) as (supervisor, _):
        await until(lambda: len(canaries(tmp_path)) >= 4)
        assert supervisor.restarts.count == 0
    warnings = [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING]
    assert warnings == ["the engine found a GPU when it started, and has faulty:latest on the CPU"]


async def test_without_a_gpu_at_the_start_nothing_can_fall(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lists(tmp_path, size_vram=0)
    settings = faulty(tmp_path, models=["faulty"], require_gpu=True, **SOON)
    async with watched(settings) as (supervisor, _):
        await until(lambda: len(canaries(tmp_path)) >= 3)
        assert supervisor.restarts.count == 0
    assert "did not say that it found a GPU" in caplog.text
