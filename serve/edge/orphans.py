"""HAProxies that a dead Serve left behind.

Serve stops its HAProxies when it ends. Where it is killed (a head that is lost, or ended by `ray
down`, on all other nodes) they go on: they hold the port and send requests to what are no ingresses
any more. The next Serve of that node has another folder, so it doesn't know them, and can't start
its own beside them: the node's proxy would never get ready.
"""

import contextlib
import os
import re
from pathlib import Path

import psutil

SERVES = "/tmp/haproxy-serve/"  # noqa: S108 - Ray Serve's own path, compared only
_BIND = re.compile(r"^\s*bind \S*:(\d+)\b", re.MULTILINE)


def orphaned_proxies(root: str = SERVES) -> list[psutil.Process]:
    """This user's HAProxies with files below `root` whose parent is no Ray process any more."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            words = process.cmdline()
            is_serves = any(word.startswith(root) for word in words) and "-db" in words
            if is_serves and process.uids().real == os.getuid() and not _has_ray_parent(process):
                found.append(process)
    return found


def in_the_way(config: Path) -> list[psutil.Process]:
    """Those that listen where an HAProxy of this file is to. `config`: `ROOT/NODE/FILE`.

    Raises `OSError`.
    """
    wanted = {int(port) for port in _BIND.findall(config.read_text("utf-8"))}
    return [
        process
        for process in orphaned_proxies(f"{config.parent.parent}/")
        if wanted & _listens(process)
    ]


def _listens(process: psutil.Process) -> set[int]:
    with contextlib.suppress(psutil.Error, OSError):
        sockets = process.net_connections("tcp")
        return {one.laddr.port for one in sockets if one.status == psutil.CONN_LISTEN}
    return set()


def _has_ray_parent(process: psutil.Process) -> bool:
    """Serve's HAProxies are children of its manager, or of an older HAProxy's manager."""
    parent = process.parent()
    return parent is not None and any(word.startswith("ray::") for word in parent.cmdline())
