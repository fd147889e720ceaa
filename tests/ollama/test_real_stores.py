"""Model stores of real engines, an installed Ollama's and our own: fetched from a mirror, copied by
pieces, caught up with.
"""

import json
import shutil
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from deployments.inference import Inference
from deployments.seat import Seat
from serve.ollama.depot import PIECE, blobs_of
from serve.ports import Call
from serve.settings import EmbeddedSettings, InferenceSettings, Settings
from serve.wire.names import canonical
from tests.embedded.fake_registry import FakeRegistry, serving
from tests.ollama.engines import collect, until
from tests.ollama.stores import Asked, Neighbours

TINY, MINE = "tiny:v1", "mine:latest"
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


@pytest.fixture
def registry() -> Generator[FakeRegistry, None, None]:
    with serving() as registry:
        registry.tag("tiny", "v1")
        yield registry


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@asynccontextmanager
async def replica(
    engine: str, folder: Path, peers: Neighbours | None = None, **inference: Any
) -> AsyncGenerator[Inference, None]:
    given = {"engine": engine, "num_gpus": 0, "slots": 1, "context_length": 512}
    given |= {"models_dir": str(folder)} if engine == "ollama" else {}
    settings = Settings(
        inference=InferenceSettings.model_validate(given | inference),
        embedded=EmbeddedSettings(store=str(folder), threads=1),
    )
    running = await Inference.launch(settings, None, Seat(peers=peers))
    try:
        yield running
    finally:
        await running.stop()


async def ask(running: Asked, verb: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
    head, answer, _ = await collect(running.stream(Call(verb, path, body, "r1")))
    return head.status, answer


async def post(running: Asked, path: str, **body: Any) -> Any:
    status, answer = await ask(running, "POST", path, json.dumps(body).encode())
    assert status == 200, answer
    return json.loads(answer.splitlines()[-1])


async def names(running: Inference) -> set[str]:
    status, answer = await ask(running, "GET", "/api/tags")
    assert status == 200
    return {row["name"] for row in json.loads(answer)["models"]}


async def test_a_model_from_a_mirror_has_its_own_name_and_later_replicas_get_all(
    engine: str, registry: FakeRegistry, tmp_path: Path
) -> None:
    mirror = f"http://{registry.host}"
    async with replica(engine, tmp_path / "1", models=[TINY], mirror=mirror) as first:
        assert not any(registry.host in name for name in await names(first))
        assert await post(first, "/api/create", **{"from": TINY}, model=MINE, system="Be brief.")
        asked = len(registry.ranges)
        peers = Neighbours({"first": first})
        async with replica(engine, tmp_path / "2", peers, models=[TINY]) as second:
            assert TINY in await names(second)
            await until(lambda: second._stocking.is_settled)
            assert {TINY, MINE} <= await names(second)
            assert (await post(second, "/api/show", model=MINE))["system"] == "Be brief."
            said = await post(
                second, "/api/generate", model=MINE, prompt="Hi", options={"num_predict": 2}
            )
            assert said["done"]
            reports = [await each.report() for each in (first, second)]
            one, other = [report.models[canonical(MINE)].digest for report in reports]
            assert one == other
        assert len(registry.ranges) == asked


async def test_a_model_crosses_in_pieces_and_is_listed_and_shown(
    engine: str, registry: FakeRegistry, tmp_path: Path
) -> None:
    mirror = f"http://{registry.host}"
    async with (
        replica(engine, tmp_path / "1", serves=[TINY], mirror=mirror) as first,
        replica(engine, tmp_path / "2") as second,
    ):
        assert TINY not in await names(second)
        _, manifest = await ask(first, "GET", f"/rayllama/manifests/{TINY}")
        path = f"/rayllama/manifests/{TINY}"
        assert (await ask(second, "PUT", path, manifest))[0] == 409
        for layer in blobs_of(manifest):
            for at in range(0, layer.size, PIECE):
                blob = f"/rayllama/blobs/{layer.digest}?at={at}"
                status, data = await ask(first, "GET", f"{blob}&size={PIECE}")
                assert status == 200
                is_last = at + len(data) == layer.size
                status, _ = await ask(second, "PUT", f"{blob}&last={int(is_last)}", data)
                assert status == (201 if is_last else 202)
        assert (await ask(second, "PUT", path, manifest))[0] == 201
        assert TINY in await names(second)
        one, other = [await post(each, "/api/show", model=TINY) for each in (first, second)]
        assert one["model_info"] == other["model_info"]
        assert one["parameters"] == other["parameters"]
