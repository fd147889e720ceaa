"""What an ingress tells, and to which feeders."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from time import monotonic
from typing import TYPE_CHECKING, cast

import pytest

from serve.cache.near import NearReply
from serve.edge import scout
from serve.edge.listener import Listener
from serve.edge.protocol import Address, Hot
from serve.edge.scout import Scout
from tests.cache.world import DIGEST, FINGERPRINT, KEY, MODEL, until

if TYPE_CHECKING:
    from serve.edge.feeder import Feeder

JSON = ((b"content-type", b"application/json; charset=utf-8"), (b"content-length", b"2"))
ASKED = ("/api/chat", b"", [(b"host", b"a")], b"{}")


class Ear:
    """What a listener needs of a feeder."""

    def __init__(self, wanted_bytes: int) -> None:
        self.wanted_bytes = wanted_bytes
        self.heard: list[Hot] = []

    def tell(self, hot: Hot) -> bool:
        self.heard.append(hot)
        return True


class Nodes:
    """Nodes with feeders, or with none yet, or with no edge (None)."""

    def __init__(self) -> None:
        self.listeners: dict[str, Listener | None] = {}
        self.is_away: set[str] = set()

    async def nodes(self) -> set[str]:
        return self.listeners.keys() | self.is_away

    async def address(self, node: str) -> Address | None:
        if node in self.is_away:
            raise TimeoutError
        listener = self.listeners[node]
        return listener.address if listener else None


@asynccontextmanager
async def world(**wanted: int) -> AsyncGenerator[tuple[Nodes, dict[str, Ear], Scout]]:
    nodes = Nodes()
    ears = {node: Ear(size) for node, size in wanted.items()}
    async with AsyncExitStack() as exits:
        for node, ear in ears.items():
            listener = Listener(cast("Feeder", ear), b"s" * 32)
            nodes.listeners[node] = await exits.enter_async_context(listener)
        scouting = Scout(nodes, min_hits=4, lifetime_s=60, generation=lambda: 1, clock=monotonic)
        yield nodes, ears, scouting


def near(size: int = 2) -> NearReply:
    ends = monotonic() + 60
    return NearReply(MODEL, DIGEST, FINGERPRINT, KEY, 0, ends, 200, JSON, b"{" + b"}" * (size - 1))


async def test_every_node_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scout, "_LOOK_EVERY_S", 0.02)
    async with world(one=100, two=1000) as (nodes, ears, scouting), scouting:
        nodes.listeners["bare"] = None
        assert await scouting.settled(5)
        await until(lambda: all(scouting._lines[node].wanted_bytes for node in ears))
        scouting.tell(ASKED, near(), "default")
        await until(lambda: bool(ears["one"].heard and ears["two"].heard))
        assert ears["one"].heard == ears["two"].heard
        scouting.tell(ASKED, near(500), "default")
        await until(lambda: len(ears["two"].heard) == 2)
        assert len(ears["one"].heard) == 1  # it said how long an answer may be
        del nodes.listeners["one"]
        await until(lambda: "one" not in scouting._lines)
        scouting.tell(ASKED, near(), "default")
        await until(lambda: len(ears["two"].heard) == 3)
        assert len(ears["one"].heard) == 1


async def test_it_is_settled_when_every_feeder_has_its_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scout, "_AGAIN_S", 0.01)
    async with world(one=100) as (nodes, _, scouting):
        nodes.is_away.add("two")
        async with scouting:
            assert not await scouting.settled(0.1)
            waiting = asyncio.create_task(scouting.settled(10))
            nodes.listeners["two"] = nodes.listeners["one"]
            nodes.is_away.clear()
            assert await waiting
