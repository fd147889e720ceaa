"""The file: what is written is read, and nothing of a file that isn't whole."""

import asyncio
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, Iterable
from io import BytesIO
from pathlib import Path

import fsspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve.cache import snapshot
from serve.cache.places import _Folder, _LocalFile, place
from serve.cache.snapshot import MAGIC, SLICE, Reader, Record, export, header, read, slices, write
from serve.errors import ConfigError, SnapshotRefused
from tests.cache.world import HandClock, until

WALL = HandClock(1_800_000_000.0)


def record(number: int, size: int = 50) -> Record:
    return Record(number.to_bytes(16, "big"), bytes(size), "m", "d", "f", WALL() + number)


def there(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def everything(file: bytes) -> list[Record]:
    reader = Reader(BytesIO(file), "file")
    found = []
    while some := reader.some():
        found += some
    assert reader.some() == []
    return found


def file_of(records: Iterable[Record], folder: Path) -> bytes:
    asyncio.run(export(records, str(folder / "file"), wall=WALL))
    return (folder / "file").read_bytes()


records = st.lists(
    st.builds(
        Record,
        st.binary(min_size=16, max_size=32),
        st.binary(max_size=300),
        st.text(max_size=20),
        st.text(max_size=20),
        st.text(max_size=20),
        st.floats(0, 1e12),
        st.none() | st.floats(0, 1e12),
        st.none() | st.text(max_size=20),
    ),
    max_size=SLICE + 20,
)


@settings(deadline=None)  # it writes files, and machines are busy
@given(records)
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, said: list[Record]
) -> None:
    folder = tmp_path_factory.mktemp("snapshot")
    assert everything(file_of(said, folder)) == said
    assert there(folder) == ["file"]


@pytest.mark.parametrize("url", ["{}/made/new/file", "file://{}/file", "memory://x{}/file"])
async def test_to_a_path_or_any_url(url: str, tmp_path: Path) -> None:
    async def said() -> AsyncGenerator[Record]:
        for number in range(3 * SLICE):
            yield record(number)

    where = url.format(tmp_path)
    assert await export(said(), where, wall=WALL) == 3 * SLICE
    assert [one async for one in read(where)] == [record(n) for n in range(3 * SLICE)]
    await export([], where, wall=WALL)
    assert [one async for one in read(where)] == []


async def test_a_url_that_nothing_here_can_open_is_refused_with_a_reason() -> None:
    with pytest.raises(ConfigError, match="nosuch"):
        place("nosuch://bucket/folder")
    with pytest.raises(ConfigError, match="folder"):
        await export([], "/tmp/", wall=WALL)


async def test_a_foreign_fault_is_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    class FaultyError(Exception):
        pass

    def fail(*args: object, **named: object) -> None:
        raise FaultyError("https://key:secret@bucket")

    monkeypatch.setattr(fsspec.get_filesystem_class("memory"), "put_file", fail)
    with pytest.raises(OSError, match="FaultyError") as caught:
        await export([record(1)], "memory://faulty/file", wall=WALL)
    assert "secret" not in str(caught.value)


def test_files_are_the_owners_alone(tmp_path: Path) -> None:
    file_of([record(1)], tmp_path)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o600


def test_every_flipped_bit_is_refused(tmp_path: Path) -> None:
    file = file_of([record(number, 5) for number in range(3)], tmp_path)
    for at in range(len(file)):
        for bit in (1, 128):
            broken = bytearray(file)
            broken[at] ^= bit
            with pytest.raises(SnapshotRefused, match="file: "):
                everything(bytes(broken))


def test_cut_anywhere_or_longer_it_is_refused(tmp_path: Path) -> None:
    file = file_of([record(number, 5) for number in range(3)], tmp_path)
    for size in range(len(file)):
        with pytest.raises(SnapshotRefused):
            everything(file[:size])
    with pytest.raises(SnapshotRefused):
        everything(file + b"\0")


def test_the_reason_says_what_is_wrong(tmp_path: Path) -> None:
    file = file_of([record(1)], tmp_path)
    for broken, reason in [
        (b"PK\x03\x04" + bytes(200), "no snapshot of Rayllama's"),
        (MAGIC + b"\0\2" + file[len(MAGIC) + 2 :], "version 2, and this reads 1"),
        (file[: len(MAGIC) + 2], "cut off"),
        (file[:-40] + bytes(40), "checksum"),
    ]:
        with pytest.raises(SnapshotRefused, match=reason):
            everything(broken)


def forged(*frames: bytes, count: int) -> bytes:
    """A file whose checksum is right although what it holds isn't."""
    scribe = snapshot.Scribe(file := BytesIO(), header(WALL()))
    for frame in frames:
        scribe._write(frame)
    scribe.count = count
    scribe.end()
    return file.getvalue()


ONE = snapshot._framed(record(1))


@pytest.mark.parametrize(
    "file",
    [
        forged(ONE, count=2),
        forged(ONE, b"\0\0\0\0", ONE, count=2),
        forged(b"\0\0\0\1\xc1", count=1),
        forged(b"\xff\xff\xff\xff", count=1),
        forged(ONE[:-3], count=1),
        forged(snapshot._framed(Record(b"short", b"", "m", "d", "f", 1.0)), count=1),
    ],
)
def test_what_no_version_writes_is_refused_even_if_its_checksum_is_right(file: bytes) -> None:
    with pytest.raises(SnapshotRefused):
        everything(file)


def test_fields_that_a_later_version_adds_are_passed_over() -> None:
    assert ONE[4] == 0x98  # an array of 8
    frame = ONE[:3] + bytes([ONE[3] + 1]) + b"\x99" + ONE[5:] + b"\x07"
    assert everything(forged(frame, count=1)) == [record(1)]


async def test_what_is_not_wanted_any_more_or_cancelled_leaves_nothing(tmp_path: Path) -> None:
    folder = place(str(tmp_path))
    said = [record(1)]
    assert await write(folder, "f", header(1.0), said, is_wanted=lambda: False) == -1

    async def endless() -> AsyncGenerator[Record]:
        for number in range(1000):
            yield record(number)
        begun.set()
        await asyncio.Event().wait()

    begun = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        writing = group.create_task(write(folder, "f", header(1.0), endless()))
        await begun.wait()
        assert there(tmp_path) == ["f.part"]
        writing.cancel()
    assert not there(tmp_path)


async def test_a_write_ends_after_its_part_is_gone(tmp_path: Path) -> None:
    """Else it would delete the part of whoever writes the same name next."""

    class SlowToClose(_LocalFile):
        def close(self) -> None:
            closing.set()
            assert may_close.wait(10)
            super().close()

    class Folder(_Folder):
        def write(self, name: str) -> SlowToClose:
            return SlowToClose(tmp_path / name)

    closing, may_close = threading.Event(), threading.Event()
    writing = asyncio.create_task(write(Folder(tmp_path), "f", header(1.0), [record(1)]))
    await until(closing.is_set)
    assert not writing.done()
    may_close.set()
    assert await writing == 1
    assert there(tmp_path) == ["f"]


async def test_a_process_killed_in_mid_write_leaves_the_old_file(tmp_path: Path) -> None:
    where = str(tmp_path / "file")
    await export([record(1)], where, wall=WALL)
    program = """
import asyncio, itertools, sys
from serve.cache.snapshot import export
from tests.cache.test_snapshot import record
def records():
    for number in itertools.count():
        yield record(number, 10_000)
        if number == 2000:
            print("writing", flush=True)
asyncio.run(export(records(), sys.argv[1], wall=lambda: 1.0))
"""
    child = subprocess.Popen(
        [sys.executable, "-c", program, where],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"writing\n"
        child.send_signal(signal.SIGKILL)
    assert (tmp_path / "file.part").stat().st_size > 1_000_000
    assert [one async for one in read(where)] == [record(1)]
    await export([record(2)], where, wall=WALL)
    assert [one async for one in read(where)] == [record(2)]


async def test_nothing_comes_of_a_damaged_file(tmp_path: Path) -> None:
    await export([record(n) for n in range(2 * SLICE)], str(tmp_path / "file"), wall=WALL)
    file = bytearray((tmp_path / "file").read_bytes())
    file[-100] ^= 1
    (tmp_path / "file").write_bytes(file)
    with pytest.raises(SnapshotRefused):
        await anext(slices(place(str(tmp_path)), "file"))
