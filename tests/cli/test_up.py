"""`rayllama up` from start to end: real Ray, real HAProxy, the real engine, real signals."""

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from serve.bench.wire import Answer, Connection
from serve.cli import family, main
from serve.cli.deployfile import PROJECT, find, load, read
from serve.cli.machine import get
from tests.cli.running import COMMAND, Up, config

pytestmark = [pytest.mark.ray, pytest.mark.engine]


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("state")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return config(tmp_path_factory.mktemp("config"))


@pytest.fixture(scope="module")
def up(path: Path, state: Path) -> Iterator[Up]:
    """With a limit of open files far below what 10,000 connections want."""
    with Up(path, state, open_files=8192) as running:
        yield running.until_ready()


def ask(up: Up, body: dict[str, Any], route: str = "/api/generate") -> Answer:
    with Connection(up.url) as connection:
        return connection.ask(route, json.dumps(body).encode())


def mark(up: Up) -> str:
    """The mark that all processes of this run carry."""
    child = psutil.Process(up.process.pid).children()[0]
    return child.environ()[family.MARK]


def test_it_says_where_it_is_and_what_it_serves(up: Up) -> None:
    assert f"Rayllama is ready at {up.url}" in up.said
    assert "smollm2:135m" in up.said
    assert "8192 at most, enough for about 4066 requests at once" in up.said


def test_the_lines_to_copy_work(up: Up) -> None:
    lines = [line.strip() for line in up.said.splitlines()]
    twice = [shlex.split(line) for line in lines if line.startswith("curl -i ")]
    assert len(twice) == 2
    verdicts = [re.findall(r"(?im)^x-rayllama-cache: (\w+)", _output(command)) for command in twice]
    assert verdicts == [["miss"], ["hit"]]
    (streamed,) = [shlex.split(line) for line in lines if line.startswith("curl -N ")]
    answers = [json.loads(line) for line in _output(streamed).splitlines()]
    assert answers[-1]["done"]
    assert len(answers) > 2
    (python,) = [shlex.split(line) for line in lines if line.startswith(".venv/bin/python ")]
    assert _output([COMMAND[0], *python[1:]]).strip()


def _output(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    return done.stdout


def test_all_its_sockets_are_on_loopback_but_those_that_serve_pins_down(up: Up) -> None:
    """Serve's template binds its statistics and metrics, Serve's replicas their gRPC, to all."""
    env = load(Path(shlex.split(_cmdline(up))[-1])).env
    pinned = {int(env[f"RAY_SERVE_HAPROXY_{name}_PORT"]) for name in ("STATS", "METRICS")}
    outside = []
    for process in family.marked(mark(up)):
        for listener in process.net_connections("tcp"):
            at: Any = listener.laddr
            if listener.status != psutil.CONN_LISTEN or at.port in pinned:
                continue
            is_replica = " ".join(process.cmdline()).startswith("ray::ServeReplica")
            if not (at.ip.removeprefix("::ffff:").startswith("127.") or is_replica):
                outside.append((process.name(), at))
    assert outside == []


def test_a_replica_has_one_socket_beyond_loopback_that_asks_for_rays_token(up: Up) -> None:
    replicas = [
        process
        for process in family.marked(mark(up))
        if " ".join(process.cmdline()).startswith("ray::ServeReplica")
    ]
    assert len(replicas) == 3
    for replica in replicas:
        listeners = [c for c in replica.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
        assert [c.laddr.ip for c in listeners if not _is_loopback(c.laddr.ip)] == ["::"]
        assert replica.environ()["RAY_AUTH_MODE"] == "token"


def _is_loopback(address: str) -> bool:
    return address.removeprefix("::ffff:").startswith("127.")


def _cmdline(up: Up) -> str:
    child = psutil.Process(up.process.pid).children()[0]
    return shlex.join(child.cmdline())


def test_its_cache_can_be_operated(up: Up, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    port = read(path)["applications"][0]["args"]["admin"]["port"]
    where = ["--json", "--url", f"http://127.0.0.1:{port}"]

    def told(*words: str) -> Any:
        assert main(["cache", *words, *where]) == 0
        return json.loads(capsys.readouterr().out)

    body = {
        "model": "smollm2:135m",
        "prompt": "To be explained.",
        "options": {"temperature": 0, "num_predict": 3},
    }
    before = told("explain", "/api/generate", json.dumps(body))
    assert (before["verdict"], before["reason"]) == ("miss", "cold")
    ask(up, body)
    after = told("explain", "/api/generate", json.dumps(body))
    assert (after["verdict"], after["key"]) == ("hit", before["key"])
    assert told("stats")["total"]["entries"] >= 1
    assert get(up.url, "/admin/cache/stats")[0] == 404  # on its own port alone
    exported = (
        "ray_rayllama_cache_bytes{",
        "ray_rayllama_cache_stored",
        "ray_rayllama_flights_led",
    )
    until(lambda: all(name in metrics(up) for name in exported), 60)


def metrics(up: Up) -> str:
    """What Ray's agents export."""
    pages = []
    for process in psutil.Process(up.process.pid).children(recursive=True):
        if "Agent" in process.name():
            for connection in process.net_connections("tcp"):
                if connection.status == psutil.CONN_LISTEN:
                    url = f"http://127.0.0.1:{connection.laddr.port}"
                    pages.append(get(url, "/metrics", timeout_s=2)[1].decode(errors="replace"))
    return "".join(pages)


def test_a_second_one_is_refused(up: Up, path: Path, state: Path) -> None:
    with Up(path, state) as second:
        assert second.ended() == 2
    assert f"Rayllama already runs at {up.url} (pid {up.process.pid})" in second.said


def test_another_states_second_one_is_told_who_holds_the_ports(
    up: Up, path: Path, tmp_path: Path
) -> None:
    with Up(path, tmp_path) as second:
        assert second.ended() == 2
    port = up.url.rpartition(":")[2]
    assert re.search(
        rf"port {port}, where Rayllama would answer .* is taken by .*haproxy", second.said
    )


@pytest.mark.slow
def test_the_benchmarks_end_with_one_json_object(up: Up) -> None:
    words = ["bench", "all", "--json", "--url", up.url, "--rounds=1", "--seconds=1", "--samples=3"]
    done = subprocess.run(
        [*COMMAND, *words], capture_output=True, text=True, env=up.env, timeout=600, check=False
    )
    if "not on PATH" in done.stderr:
        pytest.skip("no wrk on this machine")
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert {"hits_per_s", "noop_per_s", "ratio", "near_p50_ms", "near_p99_ms", "shared_p50_ms",
            "p50_ms_32", "p99_ms_32"} <= set(figures["hit"])  # fmt: skip
    assert {"ttft_added_p50_ms", "ttft_added_p99_ms", "throughput_kept"} <= set(figures["miss"])


def test_ctrl_c_in_the_middle_of_a_stream_leaves_nothing(up: Up) -> None:
    """The last test of this run: it ends it."""
    run, port = mark(up), int(up.url.rpartition(":")[2])
    assert len(family.marked(run)) > 10
    body = {"model": "smollm2:135m", "prompt": "Tell a long story.", "options": {"num_predict": -1}}
    request = json.dumps(body).encode()
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        client.sendall(
            b"POST /api/generate HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Length: %d\r\n\r\n" % len(request) + request
        )
        assert client.recv(4096).startswith(b"HTTP/1.1 200")
        began = time.monotonic()
        assert up.stop(signal.SIGINT) == 0
    assert time.monotonic() - began < 60, "a bound against hanging, not a measurement"
    assert up.said.endswith("stopping\nstopped\n")
    assert family.marked(run) == []
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


def test_plain_serve_run_serves_and_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    path, run = config(tmp_path), "plain serve run"
    command = [str(Path(sys.executable).with_name("serve")), "run", "--address=local", str(path)]
    env = os.environ | {"PYTHONPATH": str(PROJECT), family.MARK: run}
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, env=env, cwd=tmp_path, preexec_fn=_hear_sigint
        )
    url = load(path).url
    until(lambda: get(url, "/readyz")[0] == 200 or process.poll() is not None, 180)
    assert process.poll() is None, (tmp_path / "log").read_text()
    assert len(family.marked(run)) > 10
    process.send_signal(signal.SIGINT)
    process.wait(60)
    until(lambda: not family.marked(run), 30)


def _hear_sigint() -> None:
    """A shell that runs tests in the background has its children ignore it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def until(claim: Callable[[], bool], within_s: float) -> None:
    deadline = time.monotonic() + within_s
    while not claim():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.slow
def test_a_model_that_is_not_there_is_said_with_the_engines_words(tmp_path: Path) -> None:
    def change(data: Any) -> None:
        data["applications"][0]["args"]["inference"]["models"] = ["nonesuch:7b"]

    with Up(config(tmp_path, change), tmp_path) as failing:
        assert failing.ended() == 1
    assert "Rayllama did not start" in failing.said
    assert "nonesuch:7b" in failing.said
    assert failing.said.endswith("stopping\nstopped\n")


@pytest.mark.slow
def test_killed_it_still_shuts_serve_down(tmp_path: Path) -> None:
    with Up(config(tmp_path), tmp_path) as killed:
        killed.until_ready()
        run = mark(killed)
        killed.process.kill()
        killed.ended()
        down = subprocess.run(
            [*COMMAND, "down"],
            capture_output=True,
            text=True,
            env=killed.env,
            timeout=60,
            check=True,
        )
    assert down.stderr == ""
    until(lambda: not family.marked(run), 30)


@pytest.mark.slow
def test_without_haproxy_the_python_proxy_serves(tmp_path: Path) -> None:
    with Up(config(tmp_path), tmp_path, "--python-proxy") as slow:
        slow.until_ready()
        assert ask(slow, {"model": "smollm2:135m", "prompt": "Hi", "stream": False}).status == 200
        assert [p.name() for p in family.marked(mark(slow)) if p.name() == "haproxy"] == []


def test_the_default_config_is_local() -> None:
    assert load(find(None)).url == "http://127.0.0.1:8000"
