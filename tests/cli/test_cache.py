"""`rayllama cache` against an admin API on a real port, over real shards."""

import asyncio
import json
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from serve.cli import REFUSED, main
from serve.settings import AuthSettings
from serve.web.listener import listen
from tests.cache.world import until
from tests.cli.running import free_port
from tests.web.test_admin import CHAT, Back, back, keys


def answers_at(host: str, port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((host, port)) == 0


class Running:
    """An admin API in a thread of its own."""

    def __init__(self, behind: Back, loop: asyncio.AbstractEventLoop, port: int) -> None:
        self.behind = behind
        self.url = f"http://127.0.0.1:{port}"
        self._loop = loop

    def run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(30)


@contextmanager
def running(auth: AuthSettings = AuthSettings()) -> Iterator[Running]:  # noqa: B008 - frozen
    port = free_port()
    started: list[Running] = []
    is_up, stop = threading.Event(), asyncio.Event()

    async def live() -> None:
        async with back(auth) as behind:
            loop = asyncio.get_running_loop()
            started.append(Running(behind, loop, port))
            serving = loop.create_task(listen(behind.app, "127.0.0.1", port))
            await until(lambda: answers_at("127.0.0.1", port))
            is_up.set()
            await stop.wait()
            serving.cancel()
            await asyncio.wait([serving])

    thread = threading.Thread(target=asyncio.run, args=(live(),), name="admin API")
    thread.start()
    assert is_up.wait(30)
    try:
        yield started[0]
    finally:
        started[0]._loop.call_soon_threadsafe(stop.set)
        thread.join()


@pytest.fixture(scope="module")
def api() -> Iterator[Running]:
    with running() as started:
        started.run(started.behind.known(CHAT))
        yield started


def ask(api: Running, *words: str) -> int:
    what, *rest = words
    return main(["cache", what, "--url", api.url, *rest])


def test_stats_as_a_table(api: Running, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(api, "stats") == 0
    shards, requests = capsys.readouterr().out.split("\n\n")
    head, *rows = shards.splitlines()
    assert requests.split()[:2] == ["hits", "misses"]
    assert head.split() == ["total", "shard", "0", "shard", "1"]
    said = {row.split()[0]: row.split()[1:] for row in rows}
    assert said["stored"][0] == "1"
    assert sorted(said["stored"][1:]) == ["0", "1"]


def test_stats_as_json(api: Running, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(api, "stats", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["total"]["entries"] == 1
    assert len(told["shards"]) == 2


def test_a_request_is_explained(
    api: Running, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert ask(api, "explain", "/api/chat", json.dumps(CHAT)) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head == "hit"
    assert any(row.split()[0] == "key" for row in rows)
    file = tmp_path / "request.json"
    file.write_text(json.dumps(CHAT))
    bypass = ("--header", "cache-control: no-store")
    assert ask(api, "explain", "/api/chat", f"@{file}", *bypass) == 0
    assert capsys.readouterr().out.startswith("bypass: no-store\n")
    assert ask(api, "explain", "/api/chat", f"@{file}", "--tenant", "theirs", "--json") == 0
    assert json.loads(capsys.readouterr().out)["reason"] == "cold"


def test_the_cache_as_a_file(
    api: Running, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "cache.bundle"
    assert ask(api, "export", str(file)) == 0
    assert re.fullmatch(r"wrote 1 entries, [\d,]+ bytes\n", capsys.readouterr().out)
    assert ask(api, "import", str(file)) == 0
    said = capsys.readouterr().out
    assert said == "took in 0 entries; 0 had expired; skipped 1 (1 present)\n"
    assert ask(api, "export", str(file), "--tenant", "theirs", "--json") == 0
    assert json.loads(capsys.readouterr().out)["entries"] == 0
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
    file.write_bytes(file.read_bytes()[:-1])
    assert ask(api, "import", str(file)) == REFUSED
    assert "its checksum is wrong" in capsys.readouterr().err
    assert ask(api, "import", str(tmp_path / "none")) == REFUSED
    assert "can't be read" in capsys.readouterr().err


def test_a_purge_is_counted_first(api: Running, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(api, "purge", "--model", "smollm2:135m") == 0
    assert re.fullmatch(
        r"would drop 1 entries, [\d,]+ bytes; --yes does it\n", capsys.readouterr().out
    )
    assert ask(api, "purge", "--older-than", "1h", "--yes") == 0
    assert capsys.readouterr().out == "dropped 0 entries, 0 bytes\n"
    assert ask(api, "purge", "--tenant", "theirs", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told == {"entries": 0, "held_bytes": 0, "dry_run": True}
    assert ask(api, "purge", "--yes") == 0
    assert capsys.readouterr().out.startswith("dropped 1 entries")
    api.run(api.behind.known(CHAT))


def test_the_cache_is_paused(api: Running, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(api, "pause") == 0
    assert capsys.readouterr().out.startswith("paused: ")
    assert ask(api, "explain", "/api/chat", json.dumps(CHAT)) == 0
    assert capsys.readouterr().out.startswith("bypass: paused\n")
    assert ask(api, "stats") == 0
    rows = [row.split() for row in capsys.readouterr().out.splitlines()]
    assert ["is_paused", "True", "True", "0"] in rows
    assert ask(api, "resume", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"is_paused": False}


def test_a_refused_export_leaves_what_was_there(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "cache.bundle"
    file.write_bytes(b"before")
    with running(keys(("boss", True))) as api:
        assert ask(api, "export", str(file)) == REFUSED
        assert "(401): unauthorized" in capsys.readouterr().err
        assert ask(api, "import", str(file), "--key", "boss") == REFUSED
        assert "no snapshot of Rayllama's" in capsys.readouterr().err
    assert file.read_bytes() == b"before"
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["purge", "--older-than", "soon"], "--older-than 'soon': not like 30m"),
        (["purge", "--entry", "x"], "refused it (400): key: not 32 hex digits"),
        (["explain", "/api/tags", "{}"], "refused it (400): path: not one of"),
        (["explain", "/api/chat", "{"], "the request's body: "),
        (["explain", "/api/chat", "@/nowhere"], "the request's body: "),
        (["explain", "/api/chat", "{}", "--header", "x"], "--header 'x': not like"),
    ],
)
def test_what_makes_no_sense_is_refused(
    api: Running, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert ask(api, *words) == REFUSED
    assert said in capsys.readouterr().err


def test_a_key_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    with running(keys(("user", False), ("boss", True))) as api:
        assert ask(api, "stats") == REFUSED
        assert "(401): unauthorized" in capsys.readouterr().err
        assert ask(api, "stats", "--key", "user") == REFUSED
        assert "give an admin's key with --key" in capsys.readouterr().err
        assert ask(api, "stats", "--key", "boss") == 0


def test_nobody_listens_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", "stats", "--url", f"http://127.0.0.1:{free_port()}"]) == REFUSED
    assert "start Rayllama (`rayllama up`)" in capsys.readouterr().err


def test_who_listens_there_is_somebody_else(capsys: pytest.CaptureFixture[str]) -> None:
    async def other(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.0 200 OK\r\ncontent-length: 17\r\n\r\nOllama is running")
        writer.close()
        await writer.wait_closed()

    async def live() -> int:
        server = await asyncio.start_server(other, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with server:
            url = f"http://127.0.0.1:{port}"
            return await asyncio.to_thread(main, ["cache", "stats", "--url", url])

    assert asyncio.run(live()) == REFUSED
    assert "is no admin API of Rayllama's (status 200)" in capsys.readouterr().err
