"""The no-op application beside a running Rayllama, for as long as a comparison takes."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from serve.bench.target import Cluster
from serve.bench.wire import Connection
from serve.errors import ConfigError
from serve.settings import child_environment

# What `deployments.noop` says and is called, named here so that this process needs no Ray.
_READY = b"the no-op is deployed\n"
_PREFIX = "/rayllama-bench-noop"
_ROUTE_S = 30.0
_ANSWERS_IN_A_ROW = 20
_LOOK_S = 0.05
_MAIN = "from deployments.noop import main; main()"


@contextmanager
def noop(cluster: Cluster, front: str, *, replicas: int, size: int) -> Iterator[str]:
    """Deploy it in the cluster behind the proxy at `front`; yields its URL. Removed at the end.

    Raises `ConfigError` with Ray's own words if it can't be deployed.
    """
    with (
        tempfile.TemporaryFile() as words,
        subprocess.Popen(  # noqa: S603 - ourselves
            [sys.executable, "-P", "-c", _MAIN, cluster.address, str(replicas), str(size)],
            env=child_environment(cluster.env, drop=("RAY_ADDRESS",)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=words,
        ) as process,
    ):
        if process.stdin is None or process.stdout is None:
            raise AssertionError("pipes were asked for")
        try:
            if _READY not in iter(process.stdout.readline, b""):
                words.seek(0)
                said = words.read().decode("utf-8", "replace").strip()
                raise ConfigError(f"the no-op application can't be deployed:\n{said}")
            _wait_for_proxy(front + _PREFIX)
            yield front + _PREFIX
        finally:
            process.stdin.close()
            process.wait()


def _wait_for_proxy(url: str) -> None:
    """Serve calls it deployed some time before the proxy has been reloaded with its route."""
    deadline = time.monotonic() + _ROUTE_S
    answered = 0
    while answered < _ANSWERS_IN_A_ROW:
        if time.monotonic() > deadline:
            raise ConfigError(f"{url}: the proxy does not route there")
        with Connection(url) as connection:  # a new one each time, as an old one may be drained
            answered = answered + 1 if connection.ask(urlsplit(url).path).status == 200 else 0
        time.sleep(_LOOK_S)
