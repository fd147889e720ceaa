"""A rehearsed cluster (`serve.bench.rehearsal`) as a child process of a benchmark or a test."""

import json
import subprocess
import sys
import time
from types import TracebackType
from typing import Any, Self, cast

from serve.settings import Settings, child_environment

_ENVIRONMENT = {
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_SERVE_HAPROXY_MAXCONN": "2000",
    "RAY_SERVE_HAPROXY_LOG_TARGET": "127.0.0.1:514 local0 err\n    no strict-limits #",
    "RAY_SERVE_HAPROXY_NBTHREAD": "1",
    "RAY_SERVE_HAPROXY_STATS_PORT": "8204",
    "RAY_SERVE_HAPROXY_METRICS_PORT": "8205",
    "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": "8206",
    "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": "8207",
    "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": "31200",
    "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": "31299",
    "RAY_SERVE_DIRECT_INGRESS_MIN_GRPC_PORT": "41200",
    "RAY_SERVE_DIRECT_INGRESS_MAX_GRPC_PORT": "41299",
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",
    "RAY_AUTH_MODE": "disabled",
}
PORT = 8200


class Cluster:
    """Its process; entered, it runs and the application is ready."""

    def __init__(self, settings: Settings, nodes: int, build: str = "serve.app:build") -> None:
        self._command = [
            sys.executable,
            "-m",
            "serve.bench.rehearsal",
            _spelled_out(settings),
            str(PORT),
            str(nodes),
            build,
        ]
        self.url = f"http://127.0.0.1:{PORT}"

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(  # noqa: S603  (ourselves)
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=child_environment(_ENVIRONMENT, drop=("RAY_ADDRESS",)),
        )
        try:
            self._hear()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait(120)
        if self._process.stdout is not None:
            self._process.stdout.close()

    def replicas(self) -> dict[str, str]:
        """The inference replicas that run, and the node of each."""
        return cast("dict[str, str]", self._tell("replicas"))

    def pools(self) -> dict[str, str]:
        """The same replicas, and the deployment of each."""
        return cast("dict[str, str]", self._tell("pools"))

    @property
    def pid(self) -> int:
        """Of the process whose descendants are the cluster."""
        return self._process.pid

    def until_replicas(self, least: int, most: int, within_s: float) -> float:
        """Wait for so many replicas. Returns seconds. Raises `TimeoutError`."""
        began = time.monotonic()
        while not least <= len(self.replicas()) <= most:
            if time.monotonic() - began > within_s:
                raise TimeoutError(f"{len(self.replicas())} replicas, not {least} to {most}")
            time.sleep(0.1)
        return time.monotonic() - began

    def kill(self, node: str) -> None:
        """That node dies."""
        self._tell(f"kill {node}")

    def _tell(self, command: str) -> Any:
        if self._process.stdin is None:
            raise OSError("the cluster is gone")
        self._process.stdin.write(command + "\n")
        self._process.stdin.flush()
        return self._hear()

    def _hear(self) -> Any:
        """One answer; other lines are Ray's. Raises `OSError` at the end."""
        for line in self._process.stdout or ():
            try:
                return json.loads(line)
            except ValueError:
                continue
        raise OSError("the cluster ended by itself")


def _spelled_out(settings: Settings) -> str:
    """As JSON, with the hashes of keys, which every other dump masks."""
    data = settings.model_dump(mode="json", exclude_unset=True)
    for number, key in enumerate(settings.auth.keys):
        data["auth"]["keys"][number]["sha256"] = key.sha256.get_secret_value()
    return json.dumps(data)
