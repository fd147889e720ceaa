"""A Ray cluster of several boxes on one machine: each has a network, a /tmp and a store of its own.

They are network namespaces on a bridge, so each has its own ports, and so its own HAProxy; that
takes root, `ip` and `unshare`, and a kernel that allows it. Started as the README says a cluster by
hand is: `ray start` on each, `serve deploy` on the first.
"""

import os
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import yaml

from tests.system.conftest import PROJECT, titled, wait_for

_BRIDGE = "rayllama"
_NET = "10.213.7"
_BIN = Path(sys.executable).parent
_OBJECT_STORE_BYTES = 100_000_000


def is_possible() -> bool:
    """May we make network namespaces?"""
    if os.geteuid() != 0 or not (shutil.which("ip") and shutil.which("unshare")):
        return False
    name = f"{_BRIDGE}-tried"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False)
    if made.returncode == 0:
        _ip("netns", "del", name)
    return made.returncode == 0


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


def _undo(*words: str) -> None:
    """What may never have been done."""
    with suppress(subprocess.CalledProcessError):
        _ip(*words)


class Boxes:
    """So many of them, the first of which is Ray's head. `cpus`: of each, which is ingresses."""

    def __init__(self, folder: Path, cpus: list[int]) -> None:
        self._folder = folder
        self._cpus = cpus
        self.numbers = range(1, len(cpus) + 1)
        self._environment = {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": os.urandom(32).hex(),
            "RAY_SERVE_HAPROXY_BINARY_PATH": str(_BIN / "rayllama-haproxy"),
            "RAY_worker_niceness": "0",
            "RAY_USAGE_STATS_ENABLED": "0",
            "XDG_CACHE_HOME": "/tmp/cache",
        }

    def url(self, number: int) -> str:
        """Where a box listens."""
        return f"http://{self.address(number)}:8000"

    @property
    def admin(self) -> str:
        """Where the admin API listens."""
        return f"http://{self.address(1)}:8001"

    def address(self, number: int) -> str:
        return f"{_NET}.{number}"

    def build(self) -> None:
        """Cables, boxes, and Ray on them."""
        _ip("link", "add", _BRIDGE, "type", "bridge")
        _ip("addr", "add", f"{_NET}.254/24", "dev", _BRIDGE)
        _ip("link", "set", _BRIDGE, "up")
        for number in self.numbers:
            self._build(number)
            self.start(number)

    def clear(self) -> None:
        """All of it away again, whatever was built."""
        for number in reversed(self.numbers):
            self.lose_power(number)
            _undo("link", "del", self._link(number))  # a namespace outlives its last connection
            _undo("netns", "del", self._name(number))
        _undo("link", "del", _BRIDGE)

    def _name(self, number: int) -> str:
        return f"{_BRIDGE}-{number}"

    def _link(self, number: int) -> str:
        return f"{_BRIDGE}{number}"

    def _build(self, number: int) -> None:
        box, link = self._name(number), self._link(number)
        _ip("netns", "add", box)
        _ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", box)
        _ip("link", "set", link, "master", _BRIDGE, "up")
        _ip("-n", box, "addr", "add", f"{self.address(number)}/24", "dev", "eth0")
        for each in ("eth0", "lo"):
            _ip("-n", box, "link", "set", each, "up")
        (self._folder / str(number)).mkdir()

    def start(self, number: int) -> None:
        """`ray start`."""
        where = (
            ["--head", "--port=6379", "--dashboard-host=127.0.0.1", "--num-gpus=0"]
            if number == 1
            else [f"--address={self.address(1)}:6379", "--num-gpus=1"]
        )
        self.run(
            number,
            [
                *(str(_BIN / "ray"), "start", *where),
                f"--node-ip-address={self.address(number)}",
                f"--num-cpus={self._cpus[number - 1]}",
                f"--object-store-memory={_OBJECT_STORE_BYTES}",
            ],
        )

    def run(self, number: int, command: list[str]) -> str:
        """Run that on a box. Returns what it says; raises `AssertionError` if it failed."""
        inside = 'mount --bind "$0" /tmp && exec "$@"'
        tmp = str(self._folder / str(number))
        box = ["ip", "netns", "exec", self._name(number), "unshare", "--mount"]
        done = subprocess.run(
            [*box, "sh", "-c", inside, tmp, *command],
            cwd=PROJECT,
            env={**os.environ, **self._environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=180,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    def deploy(self, settings: dict[str, Any]) -> None:
        """`serve deploy` of gpu.yaml with these settings; returns when all is as it says."""
        data = yaml.safe_load((PROJECT / "configs" / "gpu.yaml").read_text())
        env = data["controller_options"]["runtime_env"]["env_vars"]
        env |= {"RAY_SERVE_HAPROXY_NBTHREAD": "1", "RAY_SERVE_HAPROXY_MAXCONN": "1000"}
        data["applications"][0]["args"] = settings
        (self._folder / "1" / "deployed.yaml").write_text(yaml.safe_dump(data))
        began = time.time()
        self.run(1, [str(_BIN / "serve"), "deploy", "/tmp/deployed.yaml"])
        wait_for(lambda: self._is_deployed(began), 240)

    def _is_deployed(self, since: float) -> bool:
        told = yaml.safe_load(self.run(1, [str(_BIN / "serve"), "status"]))
        (application,) = told["applications"].values()
        assert application["status"] != "DEPLOY_FAILED", application
        proxies = list(told["proxies"].values())
        return (
            application["last_deployed_time_s"] >= since
            and application["status"] == "RUNNING"
            and proxies == ["HEALTHY"] * len(proxies)
        )

    def cut(self, number: int) -> None:
        """Pull out its cable: nothing on it is told."""
        _ip("link", "set", self._link(number), "down")

    def mend(self, number: int) -> None:
        """Put the cable back."""
        _ip("link", "set", self._link(number), "up")

    def processes(self, number: int) -> list[psutil.Process]:
        """All that runs on a box."""
        listed = subprocess.run(
            ["ip", "netns", "pids", self._name(number)], capture_output=True, text=True, check=False
        )
        found = []
        for pid in map(int, listed.stdout.split()):
            with suppress(psutil.NoSuchProcess):
                found.append(psutil.Process(pid))
        return found

    def titled(self, number: int, title: str) -> list[psutil.Process]:
        """Those on a box whose command line has `title` in it."""
        return titled(self.processes(number), title)

    def lose_power(self, number: int) -> None:
        """Kill all that runs on a box."""
        there = self.processes(number)
        for process in there:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(there, timeout=20)
