"""Model stores on disk, and replicas that have one each, without engines."""

import hashlib
import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from serve.errors import EngineDied
from serve.ollama.depot import Depot
from serve.ollama.depot_routes import DepotRoutes
from serve.ports import Call, Frame, Head, Tail

NAME = "registry.ollama.ai/library/tiny:v1"


def depot(root: Path) -> Depot:
    return Depot(root, root / ".rayllama" / "lock")


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def manifest(*blobs: bytes) -> bytes:
    """A manifest over these; the last is its config."""
    *layers, config = [{"mediaType": "x", "digest": digest(b), "size": len(b)} for b in blobs]
    return json.dumps({"schemaVersion": 2, "config": config, "layers": layers}).encode()


def fill(store: Depot, name: str, *blobs: bytes) -> bytes:
    """A model, put there as an engine would; its manifest."""
    for blob in blobs:
        store.place(digest(blob)).parent.mkdir(parents=True, exist_ok=True)
        store.place(digest(blob)).write_bytes(blob)
    data = manifest(*blobs)
    assert store.put_manifest(name, data) == []
    return data


async def ask(routes: DepotRoutes, verb: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
    """The status and body of a call; a good one has its tail."""
    frames = [frame async for frame in routes.stream(Call(verb, path, body, "r1"))]
    head, tail = frames[0], frames[-1]
    assert isinstance(head, Head)
    assert isinstance(tail, Tail) is (head.status < 300)
    return head.status, b"".join(frame for frame in frames if isinstance(frame, bytes))


async def told(routes: DepotRoutes, verb: str, path: str, body: bytes = b"") -> tuple[int, Any]:
    status, text = await ask(routes, verb, path, body)
    return status, json.loads(text)


class Asked(Protocol):
    def stream(self, call: Call) -> AsyncGenerator[Frame, None]: ...


class Neighbours:
    """`serve.ollama.peers.Peers` over real stores of this machine. `calls` is what was asked."""

    def __init__(self, stores: Mapping[str, Asked]) -> None:
        self.stores = dict(stores)
        self.calls: list[Call] = []

    async def peers(self) -> Sequence[str]:
        return sorted(self.stores)

    async def stream(self, call: Call) -> AsyncGenerator[Frame, None]:
        self.calls.append(call)
        async for frame in self.stores[call.replica].stream(call):
            yield frame

    def pieces(self) -> list[tuple[str, int]]:
        """Who was asked for bytes of a blob, from where on."""
        return [
            (call.replica, int(call.path.partition("?at=")[2].partition("&")[0]))
            for call in self.calls
            if "?at=" in call.path
        ]


class FaultyNeighbours(Neighbours):
    """Of these, `faulty` fails in one way when a blob is asked for: dies, cuts, garbles, lies."""

    def __init__(self, stores: Mapping[str, Asked], faulty: str, fault: str) -> None:
        super().__init__(stores)
        self.faulty = faulty
        self.fault = fault

    async def stream(self, call: Call) -> AsyncGenerator[Frame, None]:
        if call.replica != self.faulty or "?at=" not in call.path:
            async for frame in super().stream(call):
                yield frame
            return
        self.calls.append(call)
        if self.fault == "dies":
            raise EngineDied
        async for frame in self.stores[call.replica].stream(call):
            if isinstance(frame, bytes):
                yield {"garbles": bytes(len(frame)), "cuts": frame[:-1]}.get(self.fault, frame)
            elif not (isinstance(frame, Tail) and self.fault == "leaves"):
                yield frame
