"""Processes killed under a Rayllama with snapshots: what was known comes back, and nobody who
listens to a joined stream hangs."""

import json
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from serve.cache.snapshot_name import parse
from tests.cli.running import Up, config
from tests.system.conftest import titled, wait_for

pytestmark = [pytest.mark.ray, pytest.mark.slow]

MODEL = "smollm2:135m"
PROMPTS = [f"Question number {number}." for number in range(6)]
RECOVERS_WITHIN_S = 120
INGRESS, INFERENCE, SHARD = (
    "ray::ServeReplica:rayllama:Ingress",
    "ray::ServeReplica:rayllama:Inference",
    "ray::Cache",
)


def configured(folder: Path, snapshots: Path, shards: int) -> Path:
    def change(data: Any) -> None:
        snapshot = {"url": str(snapshots), "interval_s": 1}
        cache = data["applications"][0]["args"].setdefault("cache", {})
        cache |= {"shards": shards, "snapshot": snapshot}

    folder.mkdir()
    return config(folder, change)


def named(up: Up, title: str) -> list[psutil.Process]:
    """Its processes with this title."""
    return titled(psutil.Process(up.process.pid).children(recursive=True), title)


def ingresses(up: Up) -> dict[int, str]:
    """Each ingress replica's own URL, by its pid."""
    found = {}
    for process in named(up, INGRESS):
        for connection in process.net_connections("tcp"):
            port = connection.laddr.port
            if connection.status == psutil.CONN_LISTEN and 30500 <= port <= 31000:
                found[process.pid] = f"http://127.0.0.1:{port}"
    return found


def ask(up: Up, prompt: str, cache_control: str = "") -> httpx.Response:
    body = {"model": MODEL, "prompt": prompt, "stream": False}
    options = {"temperature": 0, "num_predict": 4}
    headers = {"Cache-Control": cache_control} if cache_control else {}
    return httpx.post(
        up.url + "/api/generate", json=body | {"options": options}, headers=headers, timeout=60
    )


def answers(up: Up, prompt: str = "Are you there?") -> bool:
    try:
        return ask(up, prompt).status_code == 200
    except httpx.TransportError:
        return False


def is_known(up: Up, prompt: str) -> bool:
    """In a shard's memory: nothing is generated for this."""
    try:
        found = ask(up, prompt, "only-if-cached")
    except httpx.TransportError:
        return False
    return found.status_code == 200 and "tier=shared" in found.headers["x-rayllama-cache"]


def newest_ms(folder: Path) -> int:
    names = [parse(path.name) for path in folder.iterdir()] if folder.exists() else []
    return max((name.written_ms for name in names if name is not None), default=0)


def test_a_killed_shard_and_another_number_of_shards_find_the_entries(tmp_path: Path) -> None:
    snapshots = tmp_path / "snapshots"
    with Up(configured(tmp_path / "one", snapshots, 1), tmp_path / "state") as up:
        up.until_ready()
        wait_for(lambda: ask(up, "First?").headers["x-rayllama-cache"].startswith("hit"))
        for prompt in PROMPTS:
            assert ask(up, prompt).status_code == 200
        wait_for(lambda: all(is_known(up, prompt) for prompt in PROMPTS))
        before = newest_ms(snapshots)
        assert answers(up, "One more, so that there is something to write.")
        wait_for(lambda: newest_ms(snapshots) > before)
        (shard,) = named(up, SHARD)
        os.kill(shard.pid, signal.SIGKILL)
        wait_for(lambda: [p for p in named(up, SHARD) if p.pid != shard.pid], RECOVERS_WITHIN_S)
        wait_for(lambda: all(is_known(up, prompt) for prompt in PROMPTS), RECOVERS_WITHIN_S)
    with Up(configured(tmp_path / "three", snapshots, 3), tmp_path / "state") as up:
        up.until_ready()
        assert len(named(up, SHARD)) == 3
        wait_for(lambda: all(is_known(up, prompt) for prompt in PROMPTS), RECOVERS_WITHIN_S)


class Listener:
    """One client of one ingress replica, in a thread of its own."""

    def __init__(self, url: str, prompt: str) -> None:
        self._url = url
        self._prompt = prompt
        self.lines: list[dict[str, Any]] = []
        self.is_cut = False
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        options = {"temperature": 0, "num_predict": 3000}
        body = {"model": MODEL, "prompt": self._prompt, "options": options}
        try:
            with httpx.stream("POST", self._url + "/api/generate", json=body, timeout=120) as got:
                for line in got.iter_lines():
                    self.lines.append(json.loads(line))
        except httpx.TransportError:
            self.is_cut = True

    @property
    def end(self) -> str:
        if self.is_cut:
            return "cut"
        return "error" if "error" in self.lines[-1] else "done" if self.lines[-1]["done"] else "?"


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    folder = tmp_path_factory.mktemp("kills")
    with Up(configured(folder / "config", folder / "snapshots", 1), folder / "state") as running:
        yield running.until_ready()


@pytest.mark.parametrize(
    ("victim", "where_it_leads", "elsewhere"),
    [
        (SHARD, {"done"}, {"error"}),
        (INFERENCE, {"error"}, {"error"}),
        (INGRESS, {"cut"}, {"error"}),
    ],
    ids=["shard", "inference", "ingress"],
)
def test_nobody_hangs(up: Up, victim: str, where_it_leads: set[str], elsewhere: set[str]) -> None:
    wait_for(lambda: len(ingresses(up)) == 2 and answers(up), RECOVERS_WITHIN_S)
    wait_for(lambda: is_known(up, "Are you there?"), RECOVERS_WITHIN_S)
    (leading, one), (_, other) = ingresses(up).items()
    prompt = f"A long story about {victim}, please."
    here = [Listener(one, prompt)]
    wait_for(lambda: here[0].lines)
    here += [Listener(one, prompt) for _ in range(2)]
    there = [Listener(other, prompt) for _ in range(3)]
    wait_for(lambda: all(listener.lines for listener in [*here, *there]))
    assert len({listener.lines[0]["created_at"] for listener in [*here, *there]}) == 1
    os.kill(leading if victim == INGRESS else named(up, victim)[0].pid, signal.SIGKILL)
    for listener in [*here, *there]:
        listener.thread.join(120)
        assert not listener.thread.is_alive()
    assert {listener.end for listener in here} == where_it_leads
    assert {listener.end for listener in there} == elsewhere
    wait_for(lambda: answers(up, f"After {victim}?"), RECOVERS_WITHIN_S)
