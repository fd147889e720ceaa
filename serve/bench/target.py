"""The running Rayllama that is measured: its ingress replicas, its engines, its cluster.

Found in the process table of this machine, so that it works with whatever started it. Where the
parts run elsewhere, a benchmark that needs them says so.
"""

import contextlib
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import urlsplit

import psutil
from msgspec import Struct

from serve.bench.wire import Connection
from serve.errors import ConfigError
from serve.ollama.reaper import MARK

_INGRESS = re.compile(r"ray::ServeReplica:[^:]+:Ingress\b")
_REPLICA_PORTS = range(30000, 32000)
_GCS = "--gcs-address="
_RAY_ENV = (
    "RAY_AUTH_MODE",
    "RAY_AUTH_TOKEN",
    "RAY_AUTH_TOKEN_PATH",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER",  # keeps a Ray, and whoever asks for it, on loopback
)


class Engine(Struct, frozen=True):
    """One engine process: where it listens, and how many answers it computes at once."""

    url: str
    slots: int


class Cluster(Struct, frozen=True):
    """Where its Ray is, and the environment in which a client is let in, as its raylet has it."""

    address: str
    env: dict[str, str]


class Target(Struct, frozen=True):
    """What is measured. `headers` go with every request: a key, where the config asks for one."""

    url: str
    model: str
    headers: dict[str, str]
    ingress_urls: list[str]
    """Each ingress replica's own port; empty without HAProxy."""
    engines: list[Engine]
    cluster: Cluster | None

    def connect(self, url: str | None = None) -> Connection:
        """A connection to Rayllama, or to one of its parts."""
        return Connection(url or self.url, self.headers)


def find(url: str, model: str, headers: dict[str, str], *, engine: str = "") -> Target:
    """The Rayllama at `url`. Raises `ConfigError` where none answers, or no model generates.

    `model` and `engine` (the URL of one that no replica of this machine owns) are found if empty.
    """
    try:
        with Connection(url, headers) as connection:
            answer = connection.ask("/api/tags", method="GET")
    except OSError as error:
        raise ConfigError(f"no Rayllama at {url} ({error}); start one: make run") from error
    if answer.status != 200:
        raise ConfigError(f"{url}/api/tags answers {answer.status}: {answer.body.decode()}")
    names = [row["name"] for row in json.loads(answer.body)["models"]]
    node = _raylet(urlsplit(url).port or 80)
    below = node.children(recursive=True) if node else []
    return Target(
        url=url,
        model=_chosen(url, headers, names, model),
        headers=headers,
        ingress_urls=sorted(_listening(_ingress_replicas(below), _REPLICA_PORTS)),
        engines=[Engine(engine, 1)] if engine else list(_engines(below)),
        cluster=_cluster(node) if node else None,
    )


def _raylet(port: int) -> psutil.Process | None:
    """The Ray node whose Serve listens on this port of this machine."""
    for process in listeners(port):
        for parent in process.parents():
            if parent.name() == "raylet":
                return parent
    return None


def listeners(port: int) -> Iterator[psutil.Process]:
    """The processes that listen on this port of this machine."""
    for connection in psutil.net_connections("tcp"):
        at: Any = connection.laddr
        if connection.status == psutil.CONN_LISTEN and at.port == port and connection.pid:
            yield psutil.Process(connection.pid)


def _cluster(node: psutil.Process) -> Cluster | None:
    addresses = [word.removeprefix(_GCS) for word in node.cmdline() if word.startswith(_GCS)]
    env = {name: value for name, value in node.environ().items() if name in _RAY_ENV}
    return Cluster(addresses[0], env) if addresses else None


def _chosen(url: str, headers: dict[str, str], names: list[str], model: str) -> str:
    if model:
        return model
    with Connection(url, headers) as connection:
        for name in names:
            shown = connection.ask("/api/show", json.dumps({"model": name}).encode())
            if "completion" in json.loads(shown.body).get("capabilities", []):
                return str(name)
    raise ConfigError(f"none of the models at {url} generates text: {', '.join(names) or 'none'}")


def _ingress_replicas(processes: Iterable[psutil.Process]) -> Iterator[psutil.Process]:
    for process in processes:
        with contextlib.suppress(psutil.Error):
            if any(_INGRESS.match(word) for word in process.cmdline()):
                yield process


def _listening(processes: Iterable[psutil.Process], ports: range | None = None) -> Iterator[str]:
    """Base URLs of the loopback (or any) addresses on which these processes listen."""
    for process in processes:
        with contextlib.suppress(psutil.Error):
            for connection in process.net_connections("tcp"):
                at: Any = connection.laddr
                if connection.status == psutil.CONN_LISTEN and (not ports or at.port in ports):
                    host = "127.0.0.1" if at.ip in ("0.0.0.0", "::") else at.ip  # noqa: S104 - compared only
                    yield (
                        f"http://[{host}]:{at.port}" if ":" in host else f"http://{host}:{at.port}"
                    )


def _engines(processes: Iterable[psutil.Process]) -> Iterator[Engine]:
    """Every process that carries an engine's mark and speaks Ollama's API (runners don't)."""
    for process in processes:
        with contextlib.suppress(psutil.Error, OSError, ValueError):
            env = process.environ()
            if MARK not in env:
                continue
            for url in _listening([process]):
                with Connection(url) as connection:
                    answer = connection.ask("/api/version", method="GET")
                if answer.status == 200 and b'"version"' in answer.body:
                    yield Engine(url, int(env.get("OLLAMA_NUM_PARALLEL", "1")))
