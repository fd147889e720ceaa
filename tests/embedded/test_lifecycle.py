"""The engine's processes: how they start, and that none outlives the engine."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import psutil
import pytest

from tests.embedded.clients import counting, send
from tests.embedded.engines import is_alive, running, until
from tests.embedded.weights import smollm2

pytestmark = pytest.mark.engine


def _started(config: dict[str, object]) -> subprocess.CompletedProcess[str]:
    """An engine that refuses to start."""
    command = [sys.executable, "-m", "serve.embedded", "--port", "1", "--config"]
    return subprocess.run(
        [*command, json.dumps(config)], capture_output=True, text=True, timeout=30, check=False
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_no_runner_outlives_the_engine(tmp_path: Path, number: signal.Signals) -> None:
    with running(tmp_path) as engine:
        engine.post("/api/embed", {"model": "all-minilm"})
        connection = send(engine.port, "/api/generate", counting(100_000))
        until(lambda: len(engine.status()["loaded"]) == 2)
        pids = [one["pid"] for one in engine.status()["loaded"]]
        engine.process.send_signal(number)
        status = engine.process.wait(30)
        until(lambda: not any(is_alive(pid) for pid in pids))
        assert status == (-number if number == signal.SIGKILL else 0)
        connection.close()


def test_no_runner_outlives_an_engine_that_ends_during_a_load(tmp_path: Path) -> None:
    with running(tmp_path) as engine:
        connection = send(engine.port, "/api/generate", counting(1))
        until(lambda: engine.status()["waiting"] == 1)
        children = [child.pid for child in psutil.Process(engine.process.pid).children()]
        assert engine.stop() == 0
        until(lambda: not any(is_alive(pid) for pid in children))
        connection.close()


def test_a_runner_without_an_engine_ends_at_once() -> None:
    command = [sys.executable, "-m", "serve.embedded", "runner", str(os.getpid() + 1)]
    orphan = subprocess.run(command, stdin=subprocess.DEVNULL, timeout=30, check=False)
    assert orphan.returncode == 1


def test_runners_listen_on_loopback_and_want_their_key(tmp_path: Path) -> None:
    with running(tmp_path) as engine:
        engine.post("/api/generate", {"model": "smollm2"})
        runner = psutil.Process(engine.runner("smollm2")["pid"])
        listening = [c.laddr for c in runner.net_connections() if c.status == psutil.CONN_LISTEN]
        assert [address.ip for address in listening] == ["127.0.0.1"]
        url = f"http://127.0.0.1:{listening[0].port}/completion"
        answer = httpx.post(url, json={"prompt": "Hi"}, trust_env=False)
        assert answer.status_code == 401


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ({"path": "/no/such/file.gguf"}, "embedded.models.0: /no/such/file.gguf: No such file"),
        ({"path": __file__}, f"embedded.models.0.path: {__file__}: not a GGUF file"),
        ({"name": "a b", "path": __file__}, "embedded.models.0.name: 'a b': invalid model name"),
        ({"paht": __file__}, "unknown key 'paht'; did you mean 'path'?"),
    ],
)
def test_a_model_that_cannot_be_is_refused_at_start(model: dict[str, str], said: str) -> None:
    ended = _started({"models": [{"name": "mine", "path": "/"} | model]})
    assert ended.returncode == 2
    assert said in ended.stderr


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (
            ["m", "M:latest"],
            "embedded.models.1.name: 'M:latest' is the same model name as 'm' "
            "(embedded.models.0.name): give one of them another name",
        ),
        (
            ["SmolLM2:135M"],
            "embedded.models.0.name: 'SmolLM2:135M' is the same model name as 'smollm2:135m', "
            "which comes with the engine",
        ),
        (["smollm2"], "'smollm2' is the same model name as 'smollm2:latest', which comes with"),
        (["library/all-minilm"], "is the same model name as 'all-minilm:latest', which comes with"),
    ],
)
def test_a_name_that_two_models_have_is_refused_at_start(
    tmp_path: Path, names: list[str], said: str
) -> None:
    models = [{"name": name, "path": str(smollm2())} for name in names]
    ended = _started({"models": models, "store": str(tmp_path)})
    assert ended.returncode == 2
    assert said in ended.stderr


def test_a_store_that_cannot_be_written_is_refused_at_start(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    for folder in (file / "store", Path("/proc/store")):
        ended = _started({"store": str(folder)})
        assert ended.returncode == 2
        assert ended.stderr.startswith(f"embedded.store: {folder}: ")
        assert "let it name a folder that the engine may write to" in ended.stderr
        assert "Traceback" not in ended.stderr
