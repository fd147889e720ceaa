"""The real admin socket: what is said there stays what it was meant to be."""

import asyncio
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serve.edge.admin_socket import Admin, ProxyAway, add, admin, clear, remove, set_number
from tests.edge.entries import do, planted
from tests.edge.proxy import Proxy

KEY = "0A" * 32
VALUES = st.lists(
    st.sampled_from([b" ", b"<<", b";", b"\\", b'"', b"'", b"%", b"#", b"\t", b"add map", b"\xff"])
    | st.binary(max_size=8),
    min_size=1,
    max_size=10,
).map(b"".join)


@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(value=VALUES)
def test_no_value_breaks_out_of_its_line(proxy: Proxy, value: bytes) -> None:
    file = proxy.state.answers
    try:
        command = add(file, KEY, b"1|" + value)
    except ValueError:
        assert any(byte in value for byte in b"\r\n\0")
        return
    assert do(proxy, clear(file), command) == []
    shown = proxy.admin(f"show map {proxy.state.lease}")
    assert shown.rstrip("\n").endswith(" lease 0")
    assert do(proxy, remove(file, KEY)) == []
    assert proxy.admin(f"show map {file}") == "\n"


@pytest.mark.parametrize("key", ["", "0a" * 32, KEY + " x", KEY + "\n", "x"])
def test_only_keys_are_keys(key: str) -> None:
    with pytest.raises(ValueError, match="key"):
        add("/f", key, b"1")
    with pytest.raises(ValueError, match="key"):
        remove("/f", key)


def test_what_is_refused_is_told_and_the_rest_is_done(proxy: Proxy) -> None:
    file = proxy.state.answers
    do(proxy, clear(file))
    refused = do(
        proxy, remove(file, KEY), add(file, KEY, b"1"), clear("/no/such"), remove(file, KEY)
    )
    assert len(refused) == 2
    assert "not found" in refused[0].lower()
    assert do(proxy, set_number(proxy.state.lease, "nobody", 1)) != []


def test_many_at_once(proxy: Proxy) -> None:
    file = proxy.state.answers
    keys = [f"{number:064X}" for number in range(2000)]
    assert do(proxy, clear(file), *(add(file, key, b"v" * 500) for key in keys)) == []
    assert proxy.admin(f"show map {file}").count("v" * 500) == 2000
    assert do(proxy, *(remove(file, key) for key in keys)) == []
    assert proxy.admin(f"show map {file}") == "\n"


def test_counts(proxy: Proxy) -> None:
    key = planted(proxy, b"body")
    proxy.lease(20)
    for _ in range(4):
        proxy.ask("/api/chat", b"body")

    async def counted(connection: Admin) -> dict[str, int]:
        return await connection.counts("http_frontend")

    async def run() -> tuple[dict[str, int], int]:
        async with admin(proxy.state.socket) as connection:
            return await counted(connection), connection.pid

    counts, pid = asyncio.run(run())
    assert counts[key] == 4
    assert pid == proxy.processes[-1].pid
    proxy.lease(0)


def test_nobody_there(tmp_path: Path) -> None:
    async def run() -> None:
        async with admin(str(tmp_path / "none.sock")):
            raise AssertionError

    with pytest.raises(ProxyAway):
        asyncio.run(run())
