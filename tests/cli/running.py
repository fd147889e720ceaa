"""A real `rayllama up` in a process of its own, on ports of its own, for tests."""

import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import yaml

from serve.cli.deployfile import DEFAULT, PROJECT, read
from serve.cli.greeting import LAST

COMMAND = [sys.executable, "-c", "import sys; from serve.cli import main; sys.exit(main())"]
PATIENCE_S = 180


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def config(folder: Path, change: Callable[[Any], None] = lambda _: None) -> Path:
    """local.yaml on free ports, beside whatever else runs on this machine."""
    data = read(DEFAULT)
    data["http_options"]["port"] = free_port()
    data["controller_options"]["runtime_env"]["env_vars"] |= {
        "RAY_SERVE_HAPROXY_STATS_PORT": str(free_port()),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(free_port()),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(free_port()),
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": "30500",
    }
    data["applications"][0]["args"]["admin"] = {"port": free_port()}
    change(data)
    path = folder / "up.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


class Up:
    """`with Up(config, state) as up:` is `rayllama up`, from its start until it has ended.

    `open_files` is a hard limit for it and all that it starts.
    """

    def __init__(self, path: Path, state: Path, *words: str, open_files: int = 0) -> None:
        self.url = f"http://127.0.0.1:{read(path)['http_options']['port']}"
        self.said = ""
        self.env = os.environ | {"XDG_STATE_HOME": str(state), "PYTHONPATH": str(PROJECT)}
        self._command = [*COMMAND, "up", str(path), *words]
        self._open_files = open_files

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(
            self._command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=self.env,
            preexec_fn=self._limit,
        )
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.stop()

    def until_ready(self) -> Self:
        """Read what it says up to its last line before it serves."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said += line
            if line.rstrip() == LAST:
                return self
        raise AssertionError(f"it ended instead:\n{self.said}")

    def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        """As Ctrl-C does. Its exit status."""
        self.process.send_signal(number)
        return self.ended()

    def ended(self) -> int:
        """Wait for its end; its exit status."""
        rest, _ = self.process.communicate(timeout=PATIENCE_S)
        self.said += rest
        return self.process.returncode

    def _limit(self) -> None:
        if self._open_files:
            resource.setrlimit(resource.RLIMIT_NOFILE, (self._open_files, self._open_files))
