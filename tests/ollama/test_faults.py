"""What befalls a real engine, and what is left: the client's answer, the slots, the next call.

The engine is the embedded one with a real model; a fake network before it does the harm.
"""

import asyncio
import json
import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from deployments.inference import Inference
from serve.errors import RUNNER_DIED
from serve.ollama.supervisor import Supervisor
from serve.ports import Call, Failed, Head, Tail
from serve.settings import InferenceSettings, Settings
from serve.wire.names import canonical
from tests.ollama.engines import collect, until

pytestmark = [pytest.mark.engine]

INJECTOR = Path(__file__).with_name("fault_injector.py")
ROOT = Path(__file__).parents[2]
MODEL = "smollm2:135m"
LINES = Head(200, "application/x-ndjson")
LOST = Head(500, "application/json; charset=utf-8", is_unreached=True)
SLOTS = 2


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("faults")


@pytest.fixture(scope="module")
async def replica(scratch: Path) -> AsyncGenerator[Inference, None]:
    env: dict[str, Any] = {
        "FAULT_SCRATCH": str(scratch),
        "FAULT_PYTHON": sys.executable,
        "PYTHONPATH": str(ROOT),
    }
    inference = InferenceSettings(
        engine="ollama",
        ollama_binary=str(INJECTOR),
        env=env,
        num_gpus=0,
        slots=SLOTS,
        models=[MODEL],
        # Short, so that a hang shows soon; but not shorter than this model needs for a token.
        canary_after_s=1,
        canary_timeout_s=6,
        stall_timeout_s=8,
        max_restarts=100,
        stop_timeout_s=1,
    )
    running = await Inference.launch(Settings(inference=inference))
    yield running
    await running.stop()


def supervisor_of(replica: Inference) -> Supervisor:
    assert replica._supervisor is not None
    return replica._supervisor


def count(tokens: int = 400) -> Call:
    options = {"num_predict": tokens, "temperature": 0}
    body = {"model": MODEL, "prompt": "1, 2, 3, 4, 5, 6,", "raw": True, "options": options}
    return Call("POST", "/api/generate", json.dumps(body).encode(), "r1", canonical(MODEL))


def inject(replica: Inference, scratch: Path, fault: str) -> None:
    """From now on, until this process of the engine is gone."""
    (scratch / "fault").write_text(fault)
    (scratch / "victim").write_text(str(supervisor_of(replica).engine_pid))


async def recovers(replica: Inference, scratch: Path) -> None:
    """All slots are free, and calls in all of them at once are answered whole."""
    (scratch / "victim").unlink(missing_ok=True)
    await until(lambda: replica._gate.at_work == 0)
    answers = await asyncio.gather(*(collect(replica.stream(count(4))) for _ in range(SLOTS)))
    for head, body, tail in answers:
        assert head == LINES
        assert body.endswith(b"}\n")
        assert isinstance(tail, Tail)
    assert replica._gate.at_work == replica._gate.waiting == 0
    assert supervisor_of(replica).pulse.vitals.at_work == 0
    await replica.check_health()


async def test_a_connection_that_goes_before_a_byte(replica: Inference, scratch: Path) -> None:
    inject(replica, scratch, "drop")
    head, body, tail = await collect(replica.stream(count()))
    assert (head, tail) == (LOST, None)
    assert json.loads(body) == {"error": RUNNER_DIED}
    await recovers(replica, scratch)


@pytest.mark.parametrize("fault", ["truncate", "die"])
async def test_a_connection_that_goes_after_some_bytes(
    replica: Inference, scratch: Path, fault: str
) -> None:
    before = supervisor_of(replica).restarts.count
    async with aclosing(replica.stream(count())) as frames:
        assert await anext(frames) == LINES
        assert await anext(frames)
        inject(replica, scratch, fault)
        *_, last = [frame async for frame in frames]
    assert last == Failed(RUNNER_DIED)
    await recovers(replica, scratch)
    assert supervisor_of(replica).restarts.count - before == (fault == "die")


async def test_an_answer_with_noise_in_it_is_none_to_keep(
    replica: Inference, scratch: Path
) -> None:
    inject(replica, scratch, "garble")
    head, body, _ = await collect(replica.stream(count(8)))
    assert head == LINES
    assert b"noise" in body, "what an engine says is passed on"
    await recovers(replica, scratch)


@pytest.mark.slow
async def test_a_hang_is_noticed_in_idleness(replica: Inference, scratch: Path) -> None:
    before = supervisor_of(replica).restarts.count
    inject(replica, scratch, "hang")
    await replica.check_health()
    await until(lambda: supervisor_of(replica).restarts.count == before + 1)
    assert "is wedged" in supervisor_of(replica).last_error
    await recovers(replica, scratch)


@pytest.mark.slow
async def test_a_hang_under_full_load_is_noticed_and_told_to_all(
    replica: Inference, scratch: Path
) -> None:
    """One in the middle of its answer, one before its first byte, one that waits for a slot."""
    before = supervisor_of(replica).restarts.count
    async with aclosing(replica.stream(count(2000))) as begun:
        await anext(begun)
        await anext(begun)
        inject(replica, scratch, "hang")
        mute = asyncio.ensure_future(collect(replica.stream(count())))
        await until(lambda: supervisor_of(replica).pulse.vitals.at_work == SLOTS)
        waits = asyncio.ensure_future(collect(replica.stream(count(4))))
        await until(lambda: replica._gate.waiting == 1)
        *_, last = [frame async for frame in begun]
        assert last == Failed(RUNNER_DIED)
    head, body, _ = await mute
    assert (head, json.loads(body)) == (LOST, {"error": RUNNER_DIED})
    head, _, tail = await waits
    assert head == LINES
    assert isinstance(tail, Tail)
    assert supervisor_of(replica).restarts.count == before + 1
    await recovers(replica, scratch)


async def test_a_client_that_reads_nothing_leaves_its_slot(
    replica: Inference, scratch: Path
) -> None:
    """The engine is read to the end of the answer, and both slots are free when it leaves."""
    frames = replica.stream(count(64))
    await anext(frames)
    await until(lambda: supervisor_of(replica).pulse.vitals.at_work == 0)
    await frames.aclose()
    await recovers(replica, scratch)
