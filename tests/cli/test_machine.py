"""Ports, open files, what is on PATH: asked of the real machine."""

import http.server
import os
import resource
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from serve.cli import machine, preflight
from serve.cli.deployfile import DEFAULT, DeployFile, load, read
from serve.errors import ConfigError


@contextmanager
def listening(host: str = "127.0.0.1") -> Iterator[int]:
    with socket.socket() as taken:
        taken.bind((host, 0))
        taken.listen()
        yield taken.getsockname()[1]


def administered(port: int) -> DeployFile:
    """local.yaml with its admin API on another port."""
    data = read(DEFAULT)
    data["applications"][0]["args"]["admin"] = {"port": port}
    return DeployFile.model_validate(data)


def moved(port: int) -> DeployFile:
    """local.yaml on another port."""
    file = load(DEFAULT)
    return file.model_copy(
        update={"http_options": file.http_options.model_copy(update={"port": port})}
    )


def test_who_holds_a_port_is_said() -> None:
    with listening() as number:
        who = machine.holder(machine.Port(number, "test", "127.0.0.1"))
        assert who is not None
        assert who.pid == os.getpid()
        with pytest.raises(ConfigError) as refused:
            preflight.check_ports(moved(number), haproxy=False)
    assert f"port {number}, where Rayllama would answer" in str(refused.value)
    assert f"(pid {os.getpid()})" in str(refused.value)


def test_a_port_held_on_one_address_is_taken_on_all() -> None:
    with listening() as number:
        assert machine.holder(machine.Port(number, "test", "")) is not None


def test_a_free_port_has_no_holder() -> None:
    with listening() as number:
        pass
    assert machine.holder(machine.Port(number, "test", "127.0.0.1")) is None
    preflight.check_ports(moved(number), haproxy=False)


def test_the_ports_follow_the_config() -> None:
    file = load(DEFAULT)
    assert [port.number for port in machine.ports(file, haproxy=True)] == [8000, 8404, 9101, 8500]
    assert [port.number for port in machine.ports(file, haproxy=False)] == [8000]
    file.env["RAY_SERVE_HAPROXY_STATS_PORT"] = "18404"
    assert 18404 in [port.number for port in machine.ports(file, haproxy=True)]


_LIMITS = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))
from serve.cli import preflight
from serve.cli.deployfile import DEFAULT, load
print(preflight.open_files(load(DEFAULT)))
print(resource.getrlimit(resource.RLIMIT_NOFILE))
"""


def test_the_limit_of_open_files_is_raised_and_explained() -> None:
    """In a process of its own, since a hard limit once lowered stays so."""
    script = _LIMITS.format(soft=256, hard=4096)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    said, limits = done.stdout.splitlines()
    assert "4096 at most, enough for about 2018 requests at once" in said
    assert "not for the config's 12000" in said
    assert limits == "(4096, 4096)"


def test_a_limit_that_is_enough() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    file = load(DEFAULT)
    file.env["RAY_SERVE_HAPROXY_MAXCONN"] = "100"
    assert f"{hard} at most, enough for the config's 100" in preflight.open_files(file)


def test_an_ollama_on_path_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "ollama"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(machine, "OLLAMA_URL", "http://127.0.0.1:1")
    found = machine.find_ollama()
    assert found is not None
    assert str(found) == str(program)
    lines = preflight.findings(load(DEFAULT))
    assert f"Ollama found: {program}" in lines
    assert any("configs/ollama.yaml" in line for line in lines)


class FakeOllama(http.server.BaseHTTPRequestHandler):
    """Answers /api/version as Ollama does, and nothing else."""

    def do_GET(self) -> None:
        body = b'{"version":"0.33.1"}' if self.path == "/api/version" else b"{}"
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Silent."""


def test_a_server_that_runs_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with http.server.HTTPServer(("127.0.0.1", 0), FakeOllama) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.setattr(machine, "OLLAMA_URL", f"http://127.0.0.1:{server.server_port}")
        found = machine.find_ollama()
        server.shutdown()
        thread.join()
    assert found is not None
    assert str(found) == "its server 0.33.1 runs on 127.0.0.1:11434"


def test_no_ollama(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(machine, "OLLAMA_URL", "http://127.0.0.1:1")
    assert machine.find_ollama() is None


def test_an_haproxy_is_found_where_serve_finds_it(tmp_path: Path) -> None:
    assert machine.has_haproxy({}) is (sys.platform == "linux")
    assert not machine.has_haproxy({"RAY_SERVE_HAPROXY_BINARY_PATH": str(tmp_path / "none")})
    assert machine.has_haproxy({"RAY_SERVE_HAPROXY_BINARY_PATH": sys.executable})


def test_what_does_not_answer_has_status_zero() -> None:
    assert machine.get("http://127.0.0.1:1", "/readyz") == (0, b"")


def test_an_admin_port_that_is_taken_is_worth_a_note() -> None:
    with listening() as number:
        (note,) = [line for line in preflight.findings(administered(number)) if "admin" in line]
    assert f"admin.port: {number} is taken by " in note
    assert f"(pid {os.getpid()})" in note
    for port in (number, 0):
        assert not any("admin" in line for line in preflight.findings(administered(port)))
