"""Uploads in pieces: acknowledged, refused, gone on from, on a full disk."""

import errno
import json
import os
import time
from pathlib import Path

import pytest

from serve.conformance.replay import RECORDINGS
from serve.ollama import growing
from serve.ollama.depot import PIECE
from serve.ollama.depot_routes import DepotRoutes
from serve.ollama.growing import Growing, Uploads
from tests.ollama.stores import ask, depot, digest, told

RECORDED = RECORDINGS / "models.jsonl"
WHOLE = bytes(range(256)) * 40
BLOB = f"/rayllama/blobs/{digest(WHOLE)}"


def unfinished(root: Path) -> list[Path]:
    return list((root / ".rayllama" / "unfinished").iterdir())


async def test_an_upload_in_acknowledged_pieces(tmp_path: Path) -> None:
    routes = DepotRoutes(depot(tmp_path))
    assert await told(routes, "PUT", f"{BLOB}?at=0&last=0", WHOLE[:100]) == (202, {})
    assert await told(routes, "PUT", f"{BLOB}?at=100&last=0", WHOLE[100:5000]) == (202, {})
    assert (await ask(routes, "GET", BLOB))[0] == 404, "not a blob before it is whole"
    assert await told(routes, "PUT", f"{BLOB}?at=5000&last=1", WHOLE[5000:]) == (201, {})
    assert (tmp_path / "blobs" / digest(WHOLE).replace(":", "-")).read_bytes() == WHOLE
    assert await told(routes, "PUT", f"{BLOB}?at=0&last=0", WHOLE[:100]) == (200, {})
    assert unfinished(tmp_path) == []


async def test_a_piece_out_of_place_is_told_where_the_upload_is(tmp_path: Path) -> None:
    routes = DepotRoutes(depot(tmp_path))
    await ask(routes, "PUT", f"{BLOB}?at=0", WHOLE[:100])
    for at in (99, 101, 5000):
        status, body = await told(routes, "PUT", f"{BLOB}?at={at}", WHOLE[100:200])
        assert (status, body["at"]) == (409, 100)
    assert (await ask(routes, "PUT", f"{BLOB}?at=0", WHOLE[:10]))[0] == 202, "from the start again"
    assert (await ask(routes, "PUT", f"{BLOB}?at=10&last=1", WHOLE[10:]))[0] == 201


async def test_bytes_of_another_digest_are_refused_in_ollamas_words(tmp_path: Path) -> None:
    lines = RECORDED.read_text().splitlines()
    recorded = next(line for line in map(json.loads, lines) if line["name"] == "blob_post_mismatch")
    wanted = recorded["request"]["path"].rpartition("/")[2]
    path, data = f"/rayllama/blobs/{wanted}?at=0&last=1", recorded["request"]["body"].encode()
    routes = DepotRoutes(depot(tmp_path))
    answer = await told(routes, "PUT", path, data)
    assert answer == (400, json.loads(recorded["response"]["frames"][0]))
    assert unfinished(tmp_path) == []
    assert not (tmp_path / "blobs").exists()


async def test_a_piece_may_not_be_larger_than_agreed(tmp_path: Path) -> None:
    routes = DepotRoutes(depot(tmp_path))
    assert (await ask(routes, "PUT", f"{BLOB}?at=0", bytes(PIECE + 1)))[0] == 413
    assert (await ask(routes, "PUT", f"{BLOB}?at=0", bytes(PIECE)))[0] == 202


async def test_a_blob_of_no_bytes(tmp_path: Path) -> None:
    path = f"/rayllama/blobs/{digest(b'')}"
    routes = DepotRoutes(depot(tmp_path))
    assert (await ask(routes, "PUT", f"{path}?at=0&last=1"))[0] == 201
    assert await told(routes, "GET", path) == (200, {"size": 0})


def test_what_another_process_left_is_gone_on_from(tmp_path: Path) -> None:
    store = depot(tmp_path)
    assert Uploads(store).put(digest(WHOLE), 0, WHOLE[:300], is_last=False) == (202, "")
    next_one = Uploads(store)
    assert next_one.where(digest(WHOLE)) == 300
    assert next_one.put(digest(WHOLE), 300, WHOLE[300:], is_last=True) == (201, "")


def test_what_another_process_wrote_meanwhile_counts_as_it_is(tmp_path: Path) -> None:
    store = depot(tmp_path)
    ours, theirs = Uploads(store), Uploads(store)
    ours.put(digest(WHOLE), 0, WHOLE[:300], is_last=False)
    theirs.put(digest(WHOLE), 0, b"x" * 300, is_last=False)
    status, text = ours.put(digest(WHOLE), 300, WHOLE[300:], is_last=True)
    assert status == 400, "its first 300 bytes are theirs now"
    assert text == (
        f'digest mismatch, expected "{digest(WHOLE)}", got "{digest(b"x" * 300 + WHOLE[300:])}"'
    )


def test_two_who_settle_the_same_make_one_blob(tmp_path: Path) -> None:
    store = depot(tmp_path)
    first, second = (Growing(store.unfinished("fetch", digest(WHOLE))) for _ in range(2))
    assert first.append(0, WHOLE)
    assert not second.append(0, WHOLE)
    assert second.settle(store, digest(WHOLE)) == digest(WHOLE)
    assert first.settle(store, digest(WHOLE)) == ""
    assert store.read(digest(WHOLE), 0, len(WHOLE)) == WHOLE


def test_a_full_disk_ends_the_upload_and_frees_what_it_took(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = depot(tmp_path)
    uploads = Uploads(store)
    uploads.put(digest(WHOLE), 0, WHOLE[:300], is_last=False)

    def faulty_full_disk(file: int, at: int, data: bytes) -> None:
        os.pwrite(file, data[: len(data) // 2], at)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(growing, "_write", faulty_full_disk)
        status, text = uploads.put(digest(WHOLE), 300, WHOLE[300:], is_last=True)
    assert (status, text) == (507, "the disk of the model store is full: No space left on device")
    assert unfinished(tmp_path) == []
    assert uploads.put(digest(WHOLE), 0, WHOLE, is_last=True) == (201, "")


async def test_another_fault_of_the_disk_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def faulty_disk(file: int, at: int, data: bytes) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    routes = DepotRoutes(depot(tmp_path))
    monkeypatch.setattr(growing, "_write", faulty_disk)
    answer = await told(routes, "PUT", f"{BLOB}?at=0", WHOLE)
    assert answer == (500, {"error": "Input/output error"})


def test_uploads_that_nobody_goes_on_with_are_removed(tmp_path: Path) -> None:
    store = depot(tmp_path)
    uploads = Uploads(store)
    old, young = digest(b"old"), digest(b"young")
    for name in (old, young):
        uploads.put(name, 0, b"o", is_last=False)
    fetch = store.unfinished("fetch", old)
    fetch.write_bytes(b"f")
    two_hours_ago = time.time() - 7200
    for path in (store.unfinished("upload", old), fetch):
        os.utime(path, (two_hours_ago, two_hours_ago))
    uploads.put(digest(WHOLE), 0, WHOLE, is_last=True)
    assert set(unfinished(tmp_path)) == {store.unfinished("upload", young), fetch}
