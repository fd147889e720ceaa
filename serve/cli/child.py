"""`serve run` as a child of `rayllama up`: started, asked how far it is, and ended with all below.

Why the command and not Serve's Python API: it is what people who know Serve run, the API for whole
config files is private, and a process of its own keeps Ray's output in a log and Ray's signal
handling away from ours. The parent stays small: it never imports Ray.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import uuid
from dataclasses import dataclass
from pathlib import Path

from serve.cli import family
from serve.cli.deployfile import PROJECT
from serve.cli.machine import get
from serve.edge import launcher
from serve.errors import ConfigError
from serve.settings import child_environment, environment

_DASHBOARD = re.compile(r"dashboard at .*?(http://[\w.:\[\]-]+)")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_QUIET = {
    "PYTHONUNBUFFERED": "1",
    "RAY_COLOR_PREFIX": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    # Under `uv run`, Ray would otherwise rebuild the environment for each worker.
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
}
_OURS = {
    # Ray gives its workers, which here are the servers, the lowest share of a busy machine (15).
    "RAY_worker_niceness": "0",
}
_ON_LOOPBACK = {
    # Ray's switch for laptops: all of its own ports on 127.0.0.1 instead of every interface.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
}
LOCAL = "local"
"""The Ray address that means: start a Ray of its own."""


@dataclass(frozen=True)
class Progress:
    """How far Serve is, as its dashboard tells it. `failure` is why it has given up."""

    deployments: dict[str, str]
    troubles: dict[str, str]
    failure: str = ""

    @property
    def is_complete(self) -> bool:
        """Whether every replica is there."""
        return bool(self.deployments) and set(self.deployments.values()) == {"HEALTHY"}


class ServeRun:
    """One `serve run`, and everything that it starts on this machine."""

    def __init__(
        self, config: Path, log: Path, *, address: str, is_loopback: bool, has_edge: bool = False
    ) -> None:
        self.run = uuid.uuid4().hex
        self.log = log
        program = Path(sys.executable).parent / "serve"
        if not program.exists():
            raise ConfigError(f"{program}: Ray Serve's command is missing here; run `make setup`")
        self._command = [str(program), "run", "--app-dir", str(PROJECT)]
        self._command += ["--address", address, str(config)]
        is_ours = address == LOCAL
        extra = (
            _QUIET | (_OURS if is_ours else {}) | (_ON_LOOPBACK if is_ours and is_loopback else {})
        )
        edge = Path(sys.executable).parent / launcher.BINARY
        if is_ours and has_edge and edge.exists() and not environment().haproxy_binary:
            extra = {"RAY_SERVE_HAPROXY_BINARY_PATH": str(edge)} | extra
        # RAY_ADDRESS would win over `--address local`.
        self._env = child_environment(extra | {family.MARK: self.run}, drop=("RAY_ADDRESS",))
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, in a process group of its own: Ctrl-C in the terminal is for its parent."""
        family.adopt_orphans()
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own command
                self._command,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                process_group=0,
                # If this process is killed, Serve still shuts down in order.
                preexec_fn=lambda: family.die_with_parent(signal.SIGINT),
            )

    def status(self) -> int | None:
        """Its exit status, None while it runs."""
        return self._process.poll() if self._process else None

    def interrupt(self) -> None:
        """Ask it to shut Serve down, and to stop the Ray that it started."""
        if self._process and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)

    def end_rest(self, *, patience_s: float) -> int:
        """End what is left of it, by pid. Returns how many processes that were."""
        rest = {*family.below(), *family.marked(self.run)}
        count = family.end(rest, patience_s=patience_s)
        if self._process:
            self._process.wait()
        with contextlib.suppress(ChildProcessError):  # bury adopted orphans
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        return count

    def tail(self, lines: int) -> str:
        """The end of its log, without colours."""
        with contextlib.suppress(OSError):
            text = _COLOUR.sub("", self.log.read_text("utf-8", "replace"))
            return "\n".join(line for line in text.splitlines()[-lines:] if line.strip())
        return ""

    def progress(self) -> Progress | None:
        """What Serve's dashboard says; None while it says nothing."""
        with contextlib.suppress(OSError):
            found = _DASHBOARD.search(_COLOUR.sub("", self.log.read_text("utf-8", "replace")))
            if found:
                return _progress(found[1])
        return None


def _progress(dashboard: str) -> Progress | None:
    headers = {"Authorization": f"Bearer {token}"} if (token := _ray_token()) else {}
    status, body = get(dashboard, "/api/serve/applications/", headers=headers)
    if status != 200:
        return None
    states: dict[str, str] = {}
    troubles: dict[str, str] = {}
    failure = ""
    for application in json.loads(body).get("applications", {}).values():
        for name, deployment in application.get("deployments", {}).items():
            states[name] = deployment["status"]
            if deployment.get("message"):
                troubles[name] = deployment["message"]
        if application["status"] == "DEPLOY_FAILED":
            failure = application.get("message") or "Serve gave no reason"
    return Progress(states, troubles, failure)


def _ray_token() -> str:
    """The token that Ray made for this user's clusters; "" where there is none."""
    with contextlib.suppress(OSError):
        return (environment().home / ".ray" / "auth_token").read_text().strip()
    return ""
