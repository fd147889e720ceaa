"""The executable that becomes HAProxy, started as Serve starts it."""

import os
import subprocess
from pathlib import Path

import psutil
import pytest

from serve.edge import launcher
from serve.edge.launcher import FOLDER
from tests.edge.entries import planted
from tests.edge.proxy import BINARY, LAUNCHER, Proxy


def test_the_process_that_was_started_is_haproxy_with_the_edge() -> None:
    with Proxy() as proxy:
        process = proxy.start()
        assert psutil.Process(process.pid).exe() == str(Path(BINARY).resolve())
        # By the name of its own file Serve knows its HAProxies again.
        assert str(proxy.config) in psutil.Process(process.pid).cmdline()
        assert (proxy.folder / "admin.sock").stat().st_mode & 0o777 == 0o600
        assert (proxy.folder / FOLDER).stat().st_mode & 0o777 == 0o700
        assert proxy.state.reason == ""
        assert proxy.state.bufsize == 16384


def test_after_a_reload_the_edge_begins_empty() -> None:
    with Proxy() as proxy:
        proxy.start()
        planted(proxy, b"body")
        proxy.lease(50)
        assert proxy.ask("/api/chat", b"body").is_edge
        before = proxy.processes[-1]
        proxy.reload()
        assert not proxy.ask("/api/chat", b"body").is_edge
        assert before.wait(20) == 0
        planted(proxy, b"body")
        proxy.lease(50)
        assert proxy.ask("/api/chat", b"body").is_edge


def test_another_template_starts_as_it_is() -> None:
    with Proxy() as proxy:
        proxy.config.write_text(proxy.config.read_text().replace("mode 666", "mode 660"))
        process = proxy.start()
        assert [line for line in proxy.said.splitlines() if "no edge" in line] == [
            "rayllama-haproxy: no edge: NotAsExpected: 0 times admin socket of mode 666 "
            "instead of once"
        ]
        assert "0 times" in proxy.state.reason
        assert psutil.Process(process.pid).cmdline()[1:] == ["-db", "-f", str(proxy.config)]
        assert proxy.ask("/api/chat", b"body").body == b"ingress"


def test_where_nothing_can_be_written_it_starts_as_it_is() -> None:
    with Proxy() as proxy:
        (proxy.folder / FOLDER).write_text("in the way")
        proxy.start()
        assert "no edge: FileExistsError" in proxy.said
        assert proxy.ask("/api/chat", b"body").body == b"ingress"


@pytest.mark.parametrize("script", ["echo '[ALERT] no' >&2; exit 1", "exit 1", "sleep 60"])
def test_where_haproxy_refuses_it_it_starts_as_it_is(
    script: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(launcher, "_TRY_WITHIN_S", 0.5)
    with Proxy() as proxy:
        faulty_haproxy = proxy.folder / "haproxy"
        faulty_haproxy.write_text(f"#!/bin/sh\n{script}\n")
        faulty_haproxy.chmod(0o700)
        arguments = ["-db", "-f", str(proxy.config), "-dR"]
        assert launcher.edged(arguments, str(faulty_haproxy)) == arguments
        assert capsys.readouterr().err.count("rayllama-haproxy: no edge: ") == 1
        assert proxy.state.reason


def test_where_the_disk_is_full_at_the_last_moment_it_starts_as_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail_state(path: Path, content: bytes) -> None:
        if path.name == launcher.STATE:
            raise OSError(28, "No space left on device")
        write(path, content)

    write = launcher._write
    monkeypatch.setattr(launcher, "_write", fail_state)
    with Proxy() as proxy:
        arguments = ["-db", "-f", str(proxy.config)]
        assert launcher.edged(arguments, BINARY) == arguments
    assert "no edge: OSError" in capsys.readouterr().err


def test_other_calls_are_passed_on() -> None:
    said = subprocess.run([*LAUNCHER, "-v"], capture_output=True, text=True, check=True)
    assert said.stdout.startswith("HAProxy version")


def test_an_empty_environment_is_enough() -> None:
    said = subprocess.run(
        [*LAUNCHER, "-v"],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": os.environ.get("PYTHONPATH", str(Path.cwd()))},
    )
    assert "HAProxy version" in said.stdout
