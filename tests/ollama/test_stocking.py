"""What a replica fetches before it is ready, and what it copies from the others afterwards."""

import asyncio
import errno
import json
import logging
import os
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from deployments.inference import Inference
from deployments.seat import Seat
from serve.errors import EngineDied, EngineNotReady
from serve.ollama import growing
from serve.ollama import stocking as stockings
from serve.ollama.depot import Depot
from serve.ollama.depot_routes import DepotRoutes
from serve.ollama.peers import Stock
from serve.ollama.progress import Progress, Row, rows_of, turn
from serve.ollama.stocking import shared
from serve.ports import Call
from serve.settings import Settings
from tests.ollama.engines import PATIENCE_S, collect, faulty, until
from tests.ollama.stores import NAME, Neighbours, depot, digest, fill, manifest

WEIGHTS, CONFIG = b"weights" * 1000, b"{}"
SHORT = NAME.removeprefix("registry.ollama.ai/library/")


def pool(scratch: Path, fault: str = "", **inference: Any) -> Settings:
    scratch.mkdir(exist_ok=True)
    given = {"models_dir": str(scratch / "models"), "fetch_stall_s": 0.5}
    return faulty(scratch, fault, **(given | inference))


@asynccontextmanager
async def replica(
    settings: Settings, peers: Neighbours | None = None
) -> AsyncGenerator[Inference, None]:
    running = await Inference.launch(settings, None, Seat(peers=peers))
    try:
        yield running
    finally:
        await running.stop()


async def asked(running: Inference, path: str) -> Any:
    head, body, _ = await collect(running.stream(Call("GET", path, b"", "r1")))
    assert head.status == 200
    return json.loads(body)


def pulls(scratch: Path) -> list[str]:
    """What the faulty engine was told to pull, in order."""
    path = scratch / "pulls"
    return path.read_text().splitlines() if path.exists() else []


def mine(scratch: Path) -> Depot:
    return depot(scratch / "models")


async def test_what_is_missing_is_pulled_however_long_it_takes_and_then_loaded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = pool(tmp_path, models=["faulty", "tiny:v1"], serves=["other"])
    with caplog.at_level(logging.INFO):
        async with replica(settings):
            pass
    assert pulls(tmp_path) == ["tiny:v1", "other"], "a second each, twice the limit for a stall"
    loads = (tmp_path / "loads").read_text().splitlines()
    assert [json.loads(line)[1]["model"] for line in loads] == ["faulty", "tiny:v1"]
    lines = [each.getMessage() for each in caplog.records if "fetching" in each.getMessage()]
    assert lines[0] == "fetching tiny:v1: pulling manifest, 0 of 0 MiB"
    assert "fetching other:latest: success, 0 of 0 MiB" in lines
    assert len(lines) < 12, "twenty bytes came, one by one"
    assert [path.suffix for path in mine(tmp_path).ours.glob("fetching-*")] == [".lock"] * 2


async def test_a_pull_from_which_nothing_more_comes_ends_the_start(tmp_path: Path) -> None:
    with pytest.raises(EngineNotReady) as caught:
        async with replica(pool(tmp_path, "pull_stalls", models=["tiny:v1"])):
            pass
    assert str(caught.value).startswith(
        "model 'tiny:v1' could not be fetched: nothing more of tiny:v1 came for 0.5 s "
        "(pulling, 9 of 20 bytes)"
    )


async def test_a_model_that_must_come_and_does_not_ends_the_start(tmp_path: Path) -> None:
    with pytest.raises(EngineNotReady, match="could not be fetched: pull model manifest: file doe"):
        async with replica(pool(tmp_path, "pull_fails", models=["tiny:v1"])):
            pass


@pytest.mark.parametrize(
    ("fault", "words"),
    [("pull_refused", "<html>go away</html>"), ("pull_ends", "the pull ended without a word")],
)
async def test_a_pull_that_goes_otherwise_wrong(fault: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(EngineNotReady, match=f"could not be fetched: {words}"):
        async with replica(pool(tmp_path, fault, models=["tiny:v1"])):
            pass


async def test_the_name_at_the_mirror_goes_unless_it_was_there_before(tmp_path: Path) -> None:
    mirror: dict[str, Any] = {"models": ["tiny:v1"], "mirror": "models.example:5000"}
    there = "models.example:5000/library/tiny:v1"
    async with replica(pool(tmp_path / "1", **mirror)):
        assert pulls(tmp_path / "1") == [there]
        assert (tmp_path / "1" / "deleted").read_text() == f"{there}\n"
    (tmp_path / "2").mkdir()
    (tmp_path / "2" / "pulled").write_text(f"{there}\n")
    async with replica(pool(tmp_path / "2", **mirror)):
        assert pulls(tmp_path / "2") == [there]
        assert not (tmp_path / "2" / "deleted").exists()
    with pytest.raises(EngineNotReady, match="could not be fetched: disk quota exceeded"):
        async with replica(pool(tmp_path / "3", "copy_fails", **mirror)):
            pass


async def test_a_store_that_may_not_be_written_is_left_to_the_engine(tmp_path: Path) -> None:
    settings = pool(tmp_path, models=["tiny:v1"])
    (tmp_path / "models").write_text("not a folder")
    theirs = depot(tmp_path / "theirs")
    fill(theirs, NAME, WEIGHTS, CONFIG)
    async with replica(settings, Neighbours({"a": DepotRoutes(theirs)})) as running:
        assert pulls(tmp_path) == ["tiny:v1"]
        assert await asked(running, "/rayllama/fetching") == []


async def test_a_disk_that_fills_up_is_told_and_not_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def faulty_full_disk(file: int, at: int, data: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(stockings, "_FIRST_S", 0.05)
    theirs = depot(tmp_path / "theirs")
    fill(theirs, NAME, WEIGHTS, CONFIG)
    monkeypatch.setattr(growing, "_write", faulty_full_disk)
    async with replica(pool(tmp_path), Neighbours({"a": DepotRoutes(theirs)})) as running:
        await until(lambda: "No space left on device" in caplog.text)
        assert not running._stocking.is_settled
        monkeypatch.undo()
        await until(lambda: list(mine(tmp_path).listing()) == [NAME])


async def test_peers_that_cannot_be_found_are_no_reason_not_to_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class FaultyNeighbours(Neighbours):
        async def peers(self) -> Sequence[str]:
            raise EngineDied("nobody knows")

    async with replica(pool(tmp_path, models=["tiny:v1"]), FaultyNeighbours({})) as running:
        assert pulls(tmp_path) == ["tiny:v1"]
        await until(lambda: "could not be copied yet: nobody knows" in caplog.text)
        assert not running._stocking.is_settled


async def test_a_model_that_is_another_one_here_is_left_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    theirs, store = depot(tmp_path / "theirs"), mine(tmp_path)
    fill(theirs, NAME, WEIGHTS, CONFIG)
    old = fill(store, NAME, CONFIG)
    async with replica(pool(tmp_path), Neighbours({"a": DepotRoutes(theirs)})) as running:
        await until(lambda: running._stocking.is_settled)
        assert store.manifest(NAME) == old
    assert f"{NAME} is another model here than on all other replicas" in caplog.text


async def test_one_that_should_come_is_tried_again_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stockings, "_FIRST_S", 0.05)
    async with replica(pool(tmp_path, "pull_fails", serves=["tiny:v1"])) as running:
        assert pulls(tmp_path) == ["tiny:v1"], "ready without it"
        await until(lambda: len(pulls(tmp_path)) > 2)
        (tmp_path / "registry_is_back").touch()
        await until((tmp_path / "pulled").exists)
        assert (tmp_path / "pulled").read_text() == "tiny:v1\n"
        await until(lambda: running._stocking._task is not None and running._stocking._task.done())


async def test_another_replica_is_asked_before_a_registry(tmp_path: Path) -> None:
    theirs = depot(tmp_path / "theirs")
    fill(theirs, NAME, WEIGHTS, CONFIG)
    peers = Neighbours({"a": DepotRoutes(theirs)})
    async with replica(pool(tmp_path, models=[SHORT]), peers):
        assert mine(tmp_path).manifest(SHORT) == manifest(WEIGHTS, CONFIG)
    assert pulls(tmp_path) == []


async def test_where_no_replica_can_give_it_the_registry_does(tmp_path: Path) -> None:
    theirs = depot(tmp_path / "theirs")
    fill(theirs, NAME, WEIGHTS, CONFIG)
    theirs.place(digest(WEIGHTS)).write_bytes(bytes(len(WEIGHTS)))
    peers = Neighbours({"a": DepotRoutes(theirs), "attached": DepotRoutes(None)})
    async with replica(pool(tmp_path, models=[SHORT]), peers):
        assert pulls(tmp_path) == [SHORT]


async def test_two_replicas_of_one_store_pull_once(tmp_path: Path) -> None:
    settings = pool(tmp_path, models=["tiny:v1"])

    async def one() -> None:
        async with replica(settings):
            pass

    await asyncio.gather(one(), one(), one())
    assert pulls(tmp_path) == ["tiny:v1"]


async def test_who_waits_for_another_replica_sees_how_far_it_is(tmp_path: Path) -> None:
    store = depot(tmp_path)
    working, waiting = Progress(SHORT), Progress(SHORT)
    async with turn(store, working, SHORT):
        working.see("pulling", "sha256:a", 100, 10)
        others = asyncio.get_running_loop().create_task(_through(store, waiting))
        await until(lambda: waiting.row.completed == 10)
        assert waiting.row == Row(SHORT, "another replica: pulling", 100, 10)
        assert rows_of(store, ()) == [Row(SHORT, "pulling", 100, 10)]
        async with replica(pool(tmp_path / "x", models_dir=str(tmp_path))) as running:
            row = {"name": SHORT, "status": "pulling", "total": 100, "completed": 10}
            assert await asked(running, "/rayllama/fetching") == [row]
    await others
    assert rows_of(store, ()) == [], "whoever died without a word fetches nothing"
    assert rows_of(store, [waiting.row]) == [waiting.row]


async def _through(store: Depot, progress: Progress) -> None:
    async with turn(store, progress, SHORT):
        pass


async def test_who_waits_for_one_that_stalls_gives_up_too(tmp_path: Path) -> None:
    store = depot(tmp_path / "models")
    working = Progress(SHORT)
    async with turn(store, working, SHORT):
        working.see("pulling", "sha256:a", 100, 10)
        with pytest.raises(EngineNotReady, match="another replica: pulling, 10 of 100 bytes"):
            async with replica(pool(tmp_path, models=[SHORT])):
                pass


async def test_a_late_replica_gets_what_the_others_agree_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stockings, "_FIRST_S", 0.05)
    old, older = depot(tmp_path / "old"), depot(tmp_path / "older")
    for store in (old, older):
        fill(store, NAME, WEIGHTS, CONFIG)
    fill(old, "only-one-has-it", CONFIG)
    fill(old, "changing", CONFIG)
    fill(older, "changing", WEIGHTS)
    late = Neighbours({})
    peers = Neighbours({"a": DepotRoutes(old), "b": DepotRoutes(older), "late": DepotRoutes(None)})
    async with replica(pool(tmp_path), peers) as running:
        await until(lambda: list(mine(tmp_path).listing()) == [NAME])
        assert not (await asked(running, "/rayllama/manifests"))["is_settled"], "one is silent"
        peers.stores["late"] = DepotRoutes(depot(tmp_path / "late"), is_settled=lambda: False)
        await until(lambda: running._stocking.is_settled)
        assert (await asked(running, "/rayllama/manifests"))["is_settled"]
        assert list(mine(tmp_path).listing()) == [NAME]
    assert late.calls == []
    assert pulls(tmp_path) == []


async def test_a_stop_ends_the_copying_and_keeps_what_is_there(tmp_path: Path) -> None:
    theirs = depot(tmp_path / "theirs")
    fill(theirs, NAME, WEIGHTS, CONFIG)
    begun = asyncio.Event()

    class HangingNeighbours(Neighbours):
        async def stream(self, call: Call) -> AsyncGenerator[Any, None]:
            if f"{digest(CONFIG)}?at=" in call.path:
                begun.set()
                await asyncio.Event().wait()
            async for frame in super().stream(call):
                yield frame

    async with replica(pool(tmp_path), HangingNeighbours({"a": DepotRoutes(theirs)})) as running:
        await begun.wait()
        assert [row["name"] for row in await asked(running, "/rayllama/fetching")] == [SHORT]
    assert running._stocking.rows() == []
    assert mine(tmp_path).blob(digest(WEIGHTS)) is not None
    peers = Neighbours({"a": DepotRoutes(theirs)})
    async with replica(pool(tmp_path), peers):
        await until(lambda: list(mine(tmp_path).listing()) == [NAME])
    assert len(peers.pieces()) == 1


async def test_a_model_that_goes_meanwhile_is_not_brought_back(tmp_path: Path) -> None:
    theirs, store = depot(tmp_path / "theirs"), mine(tmp_path)
    fill(theirs, NAME, WEIGHTS, CONFIG)
    peers = Neighbours({"a": DepotRoutes(theirs)})
    async with AsyncExitStack() as ends:
        other = await ends.enter_async_context(AsyncExitStack())
        await other.enter_async_context(turn(store, Progress(NAME), NAME))
        running = await ends.enter_async_context(
            replica(pool(tmp_path, fetch_stall_s=PATIENCE_S), peers)
        )
        await until(lambda: bool(running._stocking.rows()))
        next((theirs.root / "manifests").glob("*/*/*/*")).unlink()
        await other.aclose()
        await until(lambda: running._stocking.is_settled)
        assert peers.pieces() == []
        assert store.listing() == {}


async def test_an_attached_engine_is_left_alone(tmp_path: Path) -> None:
    async with replica(pool(tmp_path)) as owner:
        assert owner._supervisor is not None
        url = (await owner._supervisor.ready()).base_url
        settings = Settings.model_validate(
            {"inference": {"engine": "attach", "url": url, "serves": ["tiny"]}}
        )
        async with replica(settings) as running:
            assert running._stocking.is_settled
    assert pulls(tmp_path) == []


def test_what_is_shared() -> None:
    def stock(*, is_settled: bool = True, **models: str) -> Stock:
        return Stock(models, is_settled)

    assert shared({}) == {}
    assert shared({"a": stock(x="1"), "b": stock(x="1")}) == {"x": {"a": "1", "b": "1"}}
    assert shared({"a": stock(x="1"), "b": stock(x="2")}) == {}
    assert shared({"a": stock(x="1"), "b": stock()}) == {}
    late = stock(is_settled=False)
    assert shared({"a": stock(x="1"), "b": late}) == {"x": {"a": "1"}}
    assert shared({"a": stock(x="1"), "b": stock(is_settled=False, x="2")}) == {}
