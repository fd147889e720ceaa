"""HAProxies that a dead Serve left behind, and the one that is started in their place."""

import copy
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

from serve.edge.orphans import in_the_way, orphaned_proxies
from tests.edge.proxy import Proxy


def successor(proxy: Proxy) -> Proxy:
    """The proxy of the next Serve on that node: another folder, the same ports."""
    following = copy.copy(proxy)
    following.folder = proxy.folder / "next"
    following.folder.mkdir()
    following.config = following.folder / proxy.config.name
    text = proxy.config.read_text().replace(str(proxy.folder), str(following.folder))
    following.config.write_text(text)
    shutil.copy(proxy.folder / "500.http", following.folder)
    return following


def test_the_next_takes_its_ports_and_it_ends_what_it_is_at() -> None:
    with Proxy() as left:
        orphan = left.start("-dR")
        with socket.create_connection(("127.0.0.1", left.port)) as upload:
            head = b"POST /api/blobs/x HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n\r\n"
            upload.sendall(head + b"abc")
            following = successor(left)
            following.start("-dR")
            assert f"takes over from {orphan.pid} of a dead Serve" in following.said
            assert following.state.reason == ""
            assert following.ask("/api/chat", b"body").body == b"ingress"
            assert orphan.poll() is None
            upload.sendall(b"def")
            assert upload.recv(65536).startswith(b"HTTP/1.1 200 OK")
        assert orphan.wait(20) == 0
        assert following.ask("/api/chat", b"body").body == b"ingress"


def test_who_has_other_ports_is_left_alone() -> None:
    with Proxy() as left, Proxy() as other:
        process = left.start("-dR")
        assert [each.pid for each in in_the_way(successor(left).config)] == [process.pid]
        other.start("-dR")
        assert "takes over" not in other.said
        assert process.poll() is None


@contextmanager
def fake_haproxy(*arguments: str, parent: str = "") -> Iterator[int]:
    """A sleeping process with HAProxy's arguments; or the child of one with that name."""
    sleep = [sys.executable, "-c", "import time; print(flush=True); time.sleep(600)", *arguments]
    begin = f"import subprocess; child = subprocess.Popen({sleep!r}); child.wait()"
    command = [parent, "-c", begin] if parent else sleep
    with subprocess.Popen(command, executable=sys.executable, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        family = [*psutil.Process(process.pid).children(), psutil.Process(process.pid)]
        try:
            yield family[0].pid
        finally:
            for each in family:
                each.kill()


def test_it_is_known_by_its_file_and_its_parent() -> None:
    config = ("-db", "-f", "/tmp/haproxy-serve/0123/haproxy.cfg")
    with fake_haproxy(*config) as pid:
        assert pid in [process.pid for process in orphaned_proxies()]
    with fake_haproxy(*config, parent="ray::HAProxyManager") as pid:
        assert pid not in [process.pid for process in orphaned_proxies()]
    with fake_haproxy("-db", "-f", "/etc/haproxy/haproxy.cfg") as pid:
        assert pid not in [process.pid for process in orphaned_proxies()]
