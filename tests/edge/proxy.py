"""Serve's HAProxy without Serve: its real binary and template, started as Serve starts it, in front
of a server that says `ingress` and remembers what came."""

import contextlib
import http.client
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple, Self

from msgspec import json

from serve.edge.launcher import FOLDER, STATE, State, real_binary

LAUNCHER = [sys.executable, "-c", "from serve.edge.launcher import main; main()"]


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def is_edge(self) -> bool:
        return self.headers.get("x-rayllama-cache") == "hit; tier=edge"


class Ingress:
    """Stands for the ingress: what came, as it came."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, list[tuple[str, str]], bytes]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                if self.headers.get("transfer-encoding"):
                    body = b""
                    while size := int(self.rfile.readline(), 16):
                        body += self.rfile.read(size)
                        self.rfile.readline()
                    self.rfile.readline()
                else:
                    body = self.rfile.read(int(self.headers.get("content-length") or 0))
                outer.asked.append((self.path, self.headers.items(), body))
                self._say(b"ingress")

            def do_GET(self) -> None:
                self._say(b"ingress")

            def _say(self, text: bytes) -> None:
                self.send_response(200)
                self.send_header("content-length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, format: str, *args: Any) -> None:
                return

        class Server(ThreadingHTTPServer):
            def handle_error(self, request: Any, client_address: Any) -> None:
                return  # a health check that has seen enough

        self._server = Server(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class Proxy:
    """The proxy, in a folder of its own; `with Proxy() as proxy:`."""

    def __init__(self, bufsize: int = 16384, ingress_port: int = 0) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="edge-"))
        self.ingress = Ingress()
        self.port, self.stats_port, self.metrics_port = free_ports(3)
        self.config = self.folder / "haproxy.cfg"
        self.processes: list[subprocess.Popen[bytes]] = []
        environment = os.environ | {
            "RAY_SERVE_HAPROXY_STATS_PORT": str(self.stats_port),
            "RAY_SERVE_HAPROXY_METRICS_PORT": str(self.metrics_port),
            "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": str(bufsize),
            "RAY_SERVE_HAPROXY_NBTHREAD": "1",
        }
        command = [sys.executable, str(Path(__file__).with_name("rendered.py"))]
        arguments = [str(self.folder), str(self.port), str(ingress_port or self.ingress.port)]
        subprocess.run([*command, *arguments], env=environment, check=True, capture_output=True)
        if ingress_port:  # a real ingress, but no replica of Serve's, which has that route
            text = self.config.read_text()
            self.config.write_text(text.replace("httpchk GET /-/healthz", "httpchk GET /healthz"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait()
        self.ingress.close()
        shutil.rmtree(self.folder)

    def start(self, *more: str) -> subprocess.Popen[bytes]:
        """Start it as Serve does, and wait until it answers on its admin socket as this process."""
        with (self.folder / f"said.{len(self.processes)}").open("wb") as said:
            process = subprocess.Popen(
                [*LAUNCHER, "-db", "-f", str(self.config), *more], stderr=said, stdout=said
            )
        self.processes.append(process)
        deadline = time.monotonic() + 20
        while f"Pid: {process.pid}\n" not in self.admin("show info"):
            assert process.poll() is None, self.said
            assert time.monotonic() < deadline, self.said
            time.sleep(0.02)
        return process

    def reload(self) -> subprocess.Popen[bytes]:
        """What Serve does when the ingress's replicas change."""
        return self.start("-sf", str(self.processes[-1].pid), "-x", str(self.folder / "admin.sock"))

    @property
    def said(self) -> str:
        """What the last process said."""
        return (self.folder / f"said.{len(self.processes) - 1}").read_text("utf-8", "replace")

    @property
    def state(self) -> State:
        return json.decode((self.folder / FOLDER / STATE).read_bytes(), type=State)

    def admin(self, command: str) -> str:
        """One command, as Serve's manager sends it."""
        with socket.socket(socket.AF_UNIX) as admin:
            try:
                admin.connect(str(self.folder / "admin.sock"))
                admin.sendall(command.encode() + b"\n")
                return b"".join(iter(lambda: admin.recv(65536), b"")).decode()
            except OSError:
                return ""

    def lease(self, seconds: float) -> None:
        until = int((time.time() + seconds) * 1000)
        assert self.admin(f"set map {self.state.lease} lease {until}") == "\n"

    def ask(
        self,
        path: str,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        method: str = "POST",
    ) -> Answer:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port)) as connection:
            connection.request(method, path, body, dict(headers or {}))
            found = connection.getresponse()
            return Answer(
                found.status,
                {name.lower(): value for name, value in found.getheaders()},
                found.read(),
            )

    def raw(self, data: bytes) -> bytes:
        """What comes back for these bytes, until the proxy closes or says no more."""
        with socket.create_connection(("127.0.0.1", self.port)) as connection:
            connection.settimeout(5)
            connection.sendall(data)
            return connection.recv(65536)


def headers_of(proxy: Proxy, more: Mapping[str, str] | None = None) -> list[tuple[bytes, bytes]]:
    """The headers that `Proxy.ask` sends, as an ASGI server gives them to the ingress."""
    said = {"host": f"127.0.0.1:{proxy.port}", "accept-encoding": "identity"} | dict(more or {})
    return [(name.lower().encode(), value.encode("latin-1")) for name, value in said.items()]


def running(bufsize: int = 16384) -> Iterator[Proxy]:
    """A started proxy; for fixtures."""
    with Proxy(bufsize) as proxy:
        proxy.start()
        yield proxy


BINARY = real_binary()
