"""A replica on real engines, an installed Ollama's and our own: start, load, stream, leave, kill,
stop.
"""

import asyncio
import json
import os
import shutil
import signal
from collections.abc import AsyncGenerator
from typing import Any

import psutil
import pytest

from deployments.inference import Inference
from serve.errors import RUNNER_DIED
from serve.ports import Call, Failed, Head, Tail
from serve.settings import InferenceSettings, Settings
from serve.wire.frames import parse_last
from serve.wire.names import canonical
from tests.ollama.engines import collect, family_of, is_alive, kill_engine, until

MODEL = "smollm2:135m"
EOF_LINE = b'{"error":"an error was encountered while running the model: unexpected EOF"}\n'
ENGINES = [
    pytest.param("embedded", marks=pytest.mark.engine),
    pytest.param(
        "ollama",
        marks=[
            pytest.mark.ollama,
            pytest.mark.skipif(shutil.which("ollama") is None, reason="no `ollama` on PATH"),
        ],
    ),
]


def settings(engine: str, **inference: Any) -> Settings:
    given = {"engine": engine, "num_gpus": 0, "slots": 2, "context_length": 2048}
    return Settings(inference=InferenceSettings(**(given | inference)))


def call(prompt: str, **fields: Any) -> Call:
    body = {"model": MODEL, "prompt": prompt, "raw": True} | fields
    return Call("POST", "/api/generate", json.dumps(body).encode(), "r1", canonical(MODEL))


def counting(tokens: int) -> Call:
    return call("1, 2, 3, 4, 5, 6,", options={"num_predict": tokens, "temperature": 0})


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module", params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
async def replica(engine: str) -> AsyncGenerator[Inference, None]:
    running = await Inference.launch(settings(engine))
    if canonical(MODEL) not in (await running.report()).models:
        await running.stop()
        pytest.skip(f"its store has no {MODEL}: `ollama pull {MODEL}`")
    yield running
    await running.stop()


def runners(replica: Inference) -> list[int]:
    """The pids of Ollama's model runners."""
    assert replica._supervisor is not None
    engine = replica._supervisor.engine_pid
    return [] if engine is None else [p.pid for p in psutil.Process(engine).children()]


async def test_an_answer_streams_to_its_tail(replica: Inference, engine: str) -> None:
    head, body, tail = await collect(replica.stream(counting(16)))
    assert head == Head(200, "application/x-ndjson")
    lines = body.splitlines(keepends=True)
    assert len(lines) == 17
    done = parse_last(lines[-1])
    assert done is not None
    assert done.eval_count == 16
    report = await replica.report()
    digest = report.models[canonical(MODEL)].digest
    assert len(digest) == 64
    assert tail == Tail(digest, digest, report.fingerprint)
    assert report.fingerprint == f"{engine}/{report.engine_version} ctx=2048 kv=f16 flash=auto"


async def test_a_caller_that_leaves_frees_the_slots(replica: Inference) -> None:
    for _ in range(6):
        frames = replica.stream(counting(2000))
        await anext(frames)
        await anext(frames)
        await frames.aclose()
    async with asyncio.timeout(30):
        _, _, tail = await collect(replica.stream(counting(1)))
    assert tail is not None


async def test_slots_decode_side_by_side(replica: Inference) -> None:
    first, second = replica.stream(counting(24)), replica.stream(counting(24))
    await anext(first)
    await anext(second)  # has begun, though the first has not ended
    for frames in (first, second):
        *_, tail = [frame async for frame in frames]
        assert isinstance(tail, Tail)


async def test_a_killed_runner_is_ollamas_last_line_and_comes_back(replica: Inference) -> None:
    frames = replica.stream(counting(2000))
    await anext(frames)
    await anext(frames)
    for runner in runners(replica):
        os.kill(runner, signal.SIGKILL)
    rest = [frame async for frame in frames]
    assert not isinstance(rest[-1], Tail)
    assert isinstance(rest[-1], bytes)
    assert rest[-1].endswith(EOF_LINE)
    _, _, tail = await collect(replica.stream(counting(1)))
    assert tail is not None


async def test_a_killed_server_leaves_no_runner_and_is_followed_by_another(
    replica: Inference,
) -> None:
    assert replica._supervisor is not None
    frames = replica.stream(counting(2000))
    await anext(frames)
    await anext(frames)
    before = runners(replica)
    assert before
    killed = await kill_engine(replica._supervisor)
    rest = [frame async for frame in frames]
    assert rest[-1] == Failed(RUNNER_DIED)
    await until(lambda: not any(is_alive(pid) for pid in before))
    _, _, tail = await collect(replica.stream(counting(1)))
    assert tail is not None
    assert replica._supervisor.engine_pid != killed
    assert replica._supervisor.restarts.count == 1


async def test_configured_models_are_loaded_and_stop_leaves_nothing(
    replica: Inference, engine: str
) -> None:
    models = [MODEL]
    if canonical("all-minilm") in (await replica.report()).models:
        models.append("all-minilm")
    second = await Inference.launch(settings(engine, models=models))
    assert second._supervisor is not None
    name = second._supervisor.replica_id
    client = await second._supervisor.ready()
    loaded = await client.loaded()
    assert {canonical(model.model or "") for model in loaded.models} == set(map(canonical, models))
    assert all((model.expires_at and model.expires_at.year > 2200) for model in loaded.models)
    family = await family_of(name, 2 + len(models))
    await second.stop()
    assert not any(is_alive(pid) for pid in family)
