"""The load generator: `wrk`, which is a program of its own and takes little of the machine."""

import json
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from msgspec import Struct

from serve.errors import ConfigError
from serve.settings import environment

_MISSING = (
    "wrk, which makes the load, is not on PATH; install it: `apt install wrk` (Debian, Ubuntu), "
    "`dnf install wrk` (Fedora), `brew install wrk` (macOS)"
)

# Bodies in turn, formatted once; the figures as one line of JSON.
_SCRIPT = """
local requests, turn = {}, 0
function init(args)
  for body in io.lines(args[1]) do
    requests[#requests + 1] = wrk.format("POST", nil, nil, body)
  end
end
function request()
  turn = turn % #requests + 1
  return requests[turn]
end
function done(summary, latency, _)
  local e = summary.errors
  io.write(string.format(
    'RESULT {"requests":%d,"duration_us":%d,"p50_us":%d,"p99_us":%d,"faults":%d}\\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    e.connect + e.read + e.write + e.status + e.timeout))
end
"""


class Load(Struct, frozen=True):
    """What one run of the generator measured. `faults`: broken connections and statuses ≥ 400."""

    requests: int
    duration_us: int
    p50_us: int
    p99_us: int
    faults: int

    @property
    def per_s(self) -> float:
        """Requests a second."""
        return self.requests / self.duration_us * 1e6


class Wrk:
    """Posts the same bodies in turn, for a given time over a given number of connections."""

    def __init__(self, bodies: Sequence[bytes], headers: Mapping[str, str]) -> None:
        """Raises `ConfigError` where there is no wrk."""
        program = shutil.which("wrk", path=environment().path)
        if program is None:
            raise ConfigError(_MISSING)
        self._program = program
        self._headers = [f"{name}: {value}" for name, value in headers.items()]
        self._bodies = b"\n".join(bodies) + b"\n"

    def run(self, url: str, *, connections: int, seconds: int) -> Load:
        """One run. Raises `ConfigError` if wrk fails or a request did."""
        with tempfile.TemporaryDirectory(prefix="rayllama-bench-") as folder:
            script, bodies = Path(folder, "post.lua"), Path(folder, "bodies")
            script.write_text(_SCRIPT)
            bodies.write_bytes(self._bodies)
            shape = ["-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "30s"]
            command = [self._program, *shape, "-s", str(script)]
            for header in self._headers:
                command += ["-H", header]
            done = subprocess.run(  # noqa: S603 - a list, no shell
                [*command, url, "--", str(bodies)], capture_output=True, text=True, check=False
            )
        _, found, figures = done.stdout.partition("RESULT ")
        if done.returncode or not found:
            raise ConfigError(f"wrk failed: {done.stderr.strip() or done.stdout.strip()}")
        load = Load(**json.loads(figures))
        if load.faults:
            raise ConfigError(f"{load.faults} of {load.requests} requests to {url} failed")
        return load
