"""Ollama's own command line against Rayllama with two replicas: its recorded calls, and itself.

The recording of a command's call has the first and the last bytes of each answer, not all of it.
"""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from serve.conformance.replay import RECORDINGS
from tests.embedded.fake_registry import serving
from tests.embedded.weights import smollm2
from tests.twins import NAMES, Twins

pytestmark = [pytest.mark.engine, pytest.mark.slow]

BUILT_IN = "the embedded engine has the model from the start, and takes no safetensors"
CUT = "the recording has only the beginning of the upload"
LEFT_OUT = {
    "create smollm2:135m -f Modelfile": BUILT_IN,
    "create all-minilm -f Modelfile.embed": BUILT_IN,
    "create again -f Modelfile": CUT,
    "rm again": CUT,
}


def recorded() -> list[dict[str, Any]]:
    text = (RECORDINGS / "cli.jsonl").read_text()
    commands = [json.loads(line) for line in text.splitlines() if line.strip()]
    for number, each in enumerate(commands):
        each["name"] = each["command"].removeprefix("ollama ")
        each["id"] = f"{number}-{each['name']}"
    return commands


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Twins]:
    with Twins(tmp_path_factory.mktemp("cli")) as running:
        yield running


@pytest.mark.parametrize("command", recorded(), ids=lambda each: each["id"])
def test_a_commands_calls_are_answered_as_they_were(twins: Twins, command: dict[str, Any]) -> None:
    """In their order: a command's calls rely on those before."""
    if reason := LEFT_OUT.get(command["name"]):
        pytest.skip(reason)
    for exchange in command["exchanges"]:
        asked, then = exchange["request"], exchange["response"]
        now = httpx.request(
            asked["method"],
            twins.url + asked["path"],
            content=asked["body"].encode(),
            headers={name: value for name, value in asked["headers"].items() if name != "Host"},
            trust_env=False,
            timeout=120,
        )
        assert now.status_code == then["status"], now.text
        assert shape(now.text) == shape(then["last_bytes"]), (asked["method"], asked["path"])


def shape(body: str) -> object:
    """Of the last line: an error's words, a step's words, else its keys; "" if it was cut."""
    last = body.rstrip("\n").rpartition("\n")[2]
    try:
        line = json.loads(last)
    except ValueError:
        return ""
    if "error" in line:  # the rest is how this machine fails to resolve a name
        return re.split(r": Get |\sdial ", str(line["error"]))[0]
    if "status" in line:
        return str(line["status"])
    return ""


@pytest.mark.ollama
class TestItself:
    """The real command, its own server far away."""

    def run(self, twins: Twins, *words: str, folder: Path | None = None) -> tuple[int, str]:
        environment = {
            **os.environ,
            "OLLAMA_HOST": twins.url,
            "HOME": str(folder or "/nonexistent"),
        }
        binary = shutil.which("ollama")
        assert binary
        done = subprocess.run(
            [binary, *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            cwd=folder,
            env=environment,
            timeout=120,
            check=False,
        )
        text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", done.stdout.decode())
        return done.returncode, text

    def rows(self, text: str) -> dict[str, list[str]]:
        lines = [re.split(r"\s{2,}", line.strip()) for line in text.splitlines()]
        return {first: rest for first, *rest in lines}

    def test_a_session(self, twins: Twins, tmp_path: Path) -> None:
        """Each of the commands, and what it prints, as its recording says it."""
        listed = self.rows(self.run(twins, "list")[1])
        assert listed["NAME"] == ["ID", "SIZE", "MODIFIED"]
        assert {"smollm2:135m", "all-minilm:latest"} <= set(listed)

        status, text = self.run(twins, "show", "smollm2:135m")
        assert status == 0
        assert re.search(r"architecture\s+llama", text)
        assert re.search(r"context length\s+8192", text)

        (tmp_path / "Modelfile").write_text(
            f"FROM {smollm2()}\nSYSTEM You are Mario.\nPARAMETER temperature 0\n"
            "PARAMETER num_predict 4\n"
        )
        status, text = self.run(twins, "create", "mario", folder=tmp_path)
        assert status == 0, text
        assert text.rstrip().endswith("success")

        status, text = self.run(twins, "run", "mario", "Who are you?")
        assert status == 0
        assert text.strip()
        status, text = self.run(twins, "run", "all-minilm", "hello")
        assert status == 0
        assert len(json.loads(text)) == 384

        loaded = self.rows(self.run(twins, "ps")[1])
        assert "mario:latest" in loaded
        assert loaded["mario:latest"][2] == "100% CPU"

        assert self.run(twins, "cp", "mario", "hello") == (0, "copied 'mario' to 'hello'\n")
        assert self.run(twins, "stop", "mario")[0] == 0
        assert "mario:latest" not in self.rows(self.run(twins, "ps")[1])
        assert self.run(twins, "rm", "hello") == (0, "deleted 'hello'\n")
        assert self.run(twins, "rm", "mario") == (0, "deleted 'mario'\n")
        for name in NAMES:
            report = twins.run(twins.pool.replicas[name].report())
            assert not any("mario" in model for model in report.models)

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (("rm", "nope"), "Error: model 'nope' not found\n"),
            (("show", "nope"), "Error: model 'nope:latest' not found\n"),
            (("stop", "nope"), 'Error: couldn\'t find model "nope" to stop\n'),
        ],
    )
    def test_what_is_not_there(self, twins: Twins, words: tuple[str, ...], said: str) -> None:
        status, text = self.run(twins, *words)
        assert (status, text) == (1, said)

    def test_a_pull_from_a_registry(self, twins: Twins) -> None:
        with serving() as registry:
            status, text = self.run(twins, "pull", "--insecure", registry.name)
            assert status == 0, text
            assert text.rstrip().endswith("success")
            name = f"{registry.host}/library/smollm2:135m"
            assert name in self.rows(self.run(twins, "list")[1])
            assert self.run(twins, "rm", name)[0] == 0
