"""The no-op application beside a running Rayllama, for as long as a comparison takes."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from serve.errors import ConfigError
from serve.settings import child_environment

# What `deployments.noop` says and is called, named here so that this process needs no Ray.
_READY = b"the no-op is deployed\n"
_PREFIX = "/rayllama-bench-noop"
_MAIN = "from deployments.noop import main; main()"
# Ray takes 127.0.0.1 for the machine's outer address unless it is told to stay on loopback.
_ON_LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}


@contextmanager
def noop(gcs_address: str, *, replicas: int, size: int) -> Iterator[str]:
    """Deploy it in the cluster at `gcs_address`; its path. Removed at the end.

    Raises `ConfigError` with Ray's own words if it can't be deployed.
    """
    is_loopback = gcs_address.startswith("127.")
    with (
        tempfile.TemporaryFile() as words,
        subprocess.Popen(  # noqa: S603 - ourselves
            [sys.executable, "-P", "-c", _MAIN, gcs_address, str(replicas), str(size)],
            env=child_environment(_ON_LOOPBACK if is_loopback else {}, drop=("RAY_ADDRESS",)),
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
            yield _PREFIX
        finally:
            process.stdin.close()
            process.wait()
