"""One model from other replicas' stores: whole, resumed, from the next one, never a wrong byte."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from serve.errors import EngineDied, EngineError, EngineRefused, NotFound
from serve.ollama import depot as depots
from serve.ollama import peers as peers_module
from serve.ollama.depot import PIECE, Depot
from serve.ollama.depot_routes import DepotRoutes
from serve.ollama.fetching import Fetcher, agreed, mirrored
from serve.ollama.peers import PeerStores, Stock
from serve.ollama.progress import Progress
from serve.ports import Call, Failed, Frame, Head, Tail
from tests.ollama.stores import NAME, FaultyNeighbours, Neighbours, depot, digest, fill, manifest

ROOT = Path(__file__).parents[2]
WEIGHTS = bytes(range(256)) * (PIECE // 256) * 2 + b"the end"
CONFIG = b"{}"


def stores(folder: Path, *names: str) -> dict[str, DepotRoutes]:
    """Replicas that have the model."""
    filled = {name: depot(folder / name) for name in names}
    for store in filled.values():
        fill(store, NAME, WEIGHTS, CONFIG)
    return {name: DepotRoutes(store) for name, store in filled.items()}


async def copied(mine: Depot, peers: Neighbours, name: str = NAME) -> Progress:
    progress, asked = Progress(name), PeerStores(peers)
    stocks, _ = await asked.stocks()
    await Fetcher(mine, asked, "").copy(name, agreed(stocks, name), progress)
    return progress


async def test_a_model_comes_in_pieces(tmp_path: Path) -> None:
    mine, peers = depot(tmp_path / "mine"), Neighbours(stores(tmp_path, "a"))
    progress = await copied(mine, peers)
    assert mine.manifest("tiny:v1") == manifest(WEIGHTS, CONFIG)
    assert mine.place(digest(WEIGHTS)).read_bytes() == WEIGHTS
    assert peers.pieces() == [("a", 0), ("a", PIECE), ("a", 2 * PIECE), ("a", 0)]
    assert (progress.row.completed, progress.row.total) == (len(WEIGHTS) + 2, len(WEIGHTS) + 2)
    assert progress.row.name == "tiny:v1"


async def test_what_is_there_already_is_not_asked_for(tmp_path: Path) -> None:
    mine, peers = depot(tmp_path / "mine"), Neighbours(stores(tmp_path, "a"))
    fill(mine, "other", WEIGHTS, CONFIG)
    await copied(mine, peers)
    assert peers.pieces() == []
    assert set(mine.listing()) == {NAME, "registry.ollama.ai/library/other:latest"}


async def test_kill_9_in_the_middle_costs_only_what_was_not_there(tmp_path: Path) -> None:
    theirs = stores(tmp_path, "a")
    command = [sys.executable, "-m", "tests.ollama.lone_fetch"]
    with subprocess.Popen(
        [*command, str(tmp_path / "a"), str(tmp_path / "mine"), NAME],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    ) as process:
        assert process.stdout is not None
        for _ in range(4):  # two listings, two pieces
            assert process.stdout.readline()
        process.kill()
        process.wait()
    mine, peers = depot(tmp_path / "mine"), Neighbours(theirs)
    assert mine.listing() == {}
    await copied(mine, peers)
    assert peers.pieces() == [("a", PIECE), ("a", 2 * PIECE), ("a", 0)]
    assert mine.place(digest(WEIGHTS)).read_bytes() == WEIGHTS


@pytest.mark.parametrize("fault", ["dies", "cuts", "leaves"])
async def test_the_next_one_is_asked_when_one_fails(fault: str, tmp_path: Path) -> None:
    mine, theirs = depot(tmp_path / "mine"), stores(tmp_path, "a", "b")
    peers = FaultyNeighbours(theirs, "a", fault)
    await copied(mine, peers)
    assert mine.place(digest(WEIGHTS)).read_bytes() == WEIGHTS
    assert [name for name, _ in peers.pieces()] == ["a", "b", "b", "b", "a", "b"]
    alone = FaultyNeighbours({"a": theirs["a"]}, "a", fault)
    with pytest.raises(EngineError) as caught:
        await copied(depot(tmp_path / "other"), alone)
    assert isinstance(caught.value, EngineDied) or "was cut" in str(caught.value)


async def test_wrong_bytes_become_no_model(tmp_path: Path) -> None:
    mine = depot(tmp_path / "mine")
    with pytest.raises(EngineError, match=f"digest mismatch, want {digest(WEIGHTS)}, got sha256:"):
        await copied(mine, FaultyNeighbours(stores(tmp_path, "a"), "a", "garbles"))
    assert mine.listing() == {}
    await copied(mine, Neighbours(stores(tmp_path, "a")))
    assert mine.place(digest(WEIGHTS)).read_bytes() == WEIGHTS


async def test_a_manifest_that_changed_meanwhile_is_not_taken(tmp_path: Path) -> None:
    theirs, mine = stores(tmp_path, "a"), depot(tmp_path / "mine")
    fetcher = Fetcher(mine, PeerStores(Neighbours(theirs)), "")
    with pytest.raises(NotFound):
        await fetcher.copy(NAME, {"a": "0" * 64}, Progress(NAME))
    with pytest.raises(EngineRefused, match="not found"):
        await fetcher.copy("gone", {"a": "0" * 64}, Progress("gone"))


async def test_a_disk_that_is_too_small_is_said_before_it_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, peers = depot(tmp_path / "mine"), Neighbours(stores(tmp_path, "a"))

    class FaultySmallDisk:
        f_bavail, f_frsize = 1000, 4096

    monkeypatch.setattr(os, "statvfs", lambda _: FaultySmallDisk)
    with pytest.raises(EngineError, match="no space left: 8388617 bytes are wanted in "):
        await copied(mine, peers)
    assert peers.pieces() == []


async def test_a_blob_that_vanishes_before_it_is_named_is_fetched_again(tmp_path: Path) -> None:
    mine, peers = depot(tmp_path / "mine"), Neighbours(stores(tmp_path, "a"))
    put = mine.put_manifest
    times: list[str] = []

    def faulty_put(name: str, data: bytes) -> list[depots.Layer]:
        if not times:
            mine.place(digest(CONFIG)).unlink()
        times.append(name)
        return put(name, data)

    mine.put_manifest = faulty_put  # type: ignore[method-assign]
    await copied(mine, peers)
    assert len(times) == 2
    assert peers.pieces()[-2:] == [("a", 0), ("a", 0)]


async def test_those_who_do_not_answer_are_counted(tmp_path: Path) -> None:
    peers = Neighbours(stores(tmp_path, "a") | {"attached": DepotRoutes(None)})
    stocks, silent = await PeerStores(peers).stocks()
    assert list(stocks) == ["a"]
    assert silent == 1


async def test_one_who_hangs_or_talks_nonsense_is_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class FaultyStore:
        def __init__(self, *frames: Frame) -> None:
            self.frames = frames

        async def stream(self, call: Call) -> AsyncGenerator[Frame, None]:
            for frame in self.frames:
                yield frame
            if not self.frames:
                await asyncio.Event().wait()

    monkeypatch.setattr(peers_module, "_ASK_S", 0.2)
    head, tail = Head(200, "application/json"), Tail("", "", "")
    faulty = {
        "hangs": FaultyStore(),
        "breaks": FaultyStore(head, Failed("it broke")),
        "nonsense": FaultyStore(head, b"<html>", tail),
        "nothing": FaultyStore(Head(503, "", is_unreached=True), b""),
    }
    peers = Neighbours({**stores(tmp_path, "a"), **faulty})
    stocks, silent = await PeerStores(peers).stocks()
    assert list(stocks) == ["a"]
    assert silent == 4

    class FaultyOfOurs:
        def stream(self, call: Call) -> AsyncGenerator[Frame, None]:
            raise AssertionError("a fault of our own")

    with pytest.raises(AssertionError):
        await PeerStores(Neighbours({"x": FaultyOfOurs()})).stocks()


async def test_a_piece_of_another_size_is_none(tmp_path: Path) -> None:
    asked = PeerStores(Neighbours(stores(tmp_path, "a")))
    with pytest.raises(EngineDied, match="another size"):
        await asked.piece("a", digest(CONFIG), 0, 10)


async def test_a_blob_of_no_bytes_crosses_too(tmp_path: Path) -> None:
    theirs, mine = depot(tmp_path / "theirs"), depot(tmp_path / "mine")
    fill(theirs, NAME, b"", CONFIG)
    await copied(mine, Neighbours({"a": DepotRoutes(theirs)}))
    assert mine.place(digest(b"")).read_bytes() == b""


async def test_without_a_store_there_is_nothing_to_copy_to() -> None:
    with pytest.raises(EngineError, match="no store"):
        await Fetcher(None, None, "").copy(NAME, {}, Progress(NAME))


async def test_blobs_that_vanish_again_and_again_end_it(tmp_path: Path) -> None:
    mine, peers = depot(tmp_path / "mine"), Neighbours(stores(tmp_path, "a"))
    put = mine.put_manifest

    def faulty_put(name: str, data: bytes) -> list[depots.Layer]:
        mine.place(digest(CONFIG)).unlink()
        return put(name, data)

    mine.put_manifest = faulty_put  # type: ignore[method-assign]
    with pytest.raises(EngineError, match="vanish as soon as they are there"):
        await copied(mine, peers)


def test_of_several_manifests_most_have_the_right_one() -> None:
    stocks = {
        peer: Stock({"x": digest} if digest else {}, is_settled=True)
        for peer, digest in {"a": "2", "b": "1", "c": "1", "d": ""}.items()
    }
    assert agreed(stocks, "x") == {"b": "1", "c": "1"}
    assert agreed(stocks, "y") == {}


@pytest.mark.parametrize(
    ("mirror", "model", "there"),
    [
        ("", "tiny", None),
        ("m:5000", "tiny", ("m:5000/library/tiny:latest", False)),
        ("https://m", "tiny:v1", ("m/library/tiny:v1", False)),
        ("http://m:5000/", "ann/tiny", ("http://m:5000/ann/tiny:latest", True)),
        ("http://m/models", "tiny", ("http://m/models/tiny:latest", True)),
        ("m/models", "ann/tiny", ("m/ann/tiny:latest", False)),
        ("m", "hf.co/ann/tiny", None),
    ],
)
def test_a_mirror_stands_for_the_default_registry(
    mirror: str, model: str, there: tuple[str, bool] | None
) -> None:
    assert mirrored(mirror, model) == there
