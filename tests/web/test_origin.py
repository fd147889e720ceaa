import socket

import psutil
import pytest

from serve.web.origin import Hosts, Origins
from tests.cache.world import HandClock


@pytest.mark.parametrize(
    "origin",
    [
        b"http://localhost",
        b"http://localhost:3000",
        b"https://127.0.0.1:8443",
        b"http://0.0.0.0:1",
        b"app://whatever",
        b"vscode-webview://abc",
    ],
)
def test_ollamas_own_origins_are_allowed(origin: bytes) -> None:
    assert Origins().allows(origin)


@pytest.mark.parametrize(
    "origin",
    [
        b"http://evil.example",
        b"http://localhost.evil.example",
        b"http://localhost:3000.evil.example",
        b"null",
        b"",
        b"http://localhost:x",
        b"chrome-extension://abc",
    ],
)
def test_others_are_not(origin: bytes) -> None:
    assert not Origins().allows(origin)


def test_more_can_be_configured() -> None:
    assert Origins(["https://chat.example/"]).allows(b"https://chat.example")
    assert not Origins(["https://chat.example"]).allows(b"https://chat.example.evil")
    extensions = Origins(["chrome-extension://*", "https://*.example"])
    assert extensions.allows(b"chrome-extension://abc")
    assert extensions.allows(b"https://a.example")
    assert not extensions.allows(b"moz-extension://abc")
    assert not extensions.allows(b"https://a.example.evil")
    anyone = Origins(["*"])
    assert anyone.allows(b"http://evil.example")
    assert (b"access-control-allow-origin", b"*") in anyone.headers(b"http://evil.example")


def test_an_allowed_origin_is_named_back() -> None:
    headers = Origins().preflight(b"http://localhost:3000")
    assert (b"access-control-allow-origin", b"http://localhost:3000") in headers
    assert (b"access-control-max-age", b"43200") in headers


@pytest.mark.parametrize(
    "host",
    [
        b"",
        b"localhost",
        b"LOCALHOST:11434",
        b"127.0.0.1:8000",
        b"[::1]:8000",
        b"192.168.1.5:8000",
        b"box.local:1234",
        b"host.docker.internal",
        b"localhost.:80",
    ],
)
def test_on_loopback_the_host_names_this_machine(host: bytes) -> None:
    hosts = Hosts(loopback=True)
    assert hosts.allows(host)
    assert hosts.allows(host), "remembered"


@pytest.mark.parametrize(
    "host",
    [
        b"evil.example",
        b"8.8.8.8",
        b"169.254.169.254",
        b"local",
        b"[::1",
        b"xlocal.com",
        b"127.0.0.1:8000, evil.example",
        b"evil@127.0.0.1",
    ],
)
def test_a_rebound_name_is_refused_on_loopback_only(host: bytes) -> None:
    assert not Hosts(loopback=True).allows(host)
    assert Hosts(loopback=False).allows(host)


def test_on_loopback_the_host_may_be_this_machines_own_address() -> None:
    """As Ollama's `isLocalIP`: of any interface, public ones too, as it is now."""
    clock, told = HandClock(), ["203.0.113.7", "2001:db8::7", "fe80::7%eth0"]
    asked: list[None] = []

    def own() -> list[str]:
        asked.append(None)
        return list(told)

    hosts = Hosts(loopback=True, own=own, clock=clock)
    for host in (b"203.0.113.7:8000", b"[2001:DB8::7]:8000", b"[fe80::7]"):
        assert hosts.allows(host)
    assert not hosts.names(b"203.0.113.7")
    for number in range(200):
        assert not hosts.allows(b"203.0.113.%d" % (number + 8))
    assert len(asked) == 1, "whatever is asked for"
    told[:] = ["203.0.113.99"]
    clock.advance(1)
    assert not hosts.allows(b"203.0.113.7:8000"), "it is another's now"
    assert hosts.allows(b"203.0.113.99")
    hosts.allows(b"evil.example")
    assert len(asked) == 2


def test_the_machine_knows_its_addresses() -> None:
    hosts = Hosts(loopback=True)
    for addresses in psutil.net_if_addrs().values():
        for each in addresses:
            if each.family in (socket.AF_INET, socket.AF_INET6):
                host = each.address.partition("%")[0]
                assert hosts.allows(f"[{host}]:1".encode() if ":" in host else host.encode())
