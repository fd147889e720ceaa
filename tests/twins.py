"""Rayllama without Ray, with two replicas that have a model store each."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Any

from deployments.inference import Inference
from deployments.seat import Seat
from serve.errors import EngineDied, EngineNotReady
from serve.ports import Call, Frame, Head, Member
from serve.settings import Settings
from tests.stack import Pool, Stack, until

NAMES = ("r0", "r1")


class TwoReplicas(Pool):
    """`serve.ports.Fleet` over two real replicas; `dead_paths` of the second break."""

    may_be_empty = False

    def __init__(self, replicas: Sequence[Inference]) -> None:
        super().__init__(replicas[0])
        self.replicas = dict(zip(NAMES, replicas, strict=True))
        self.dead_paths: set[str] = set()

    def members(self) -> Sequence[Member]:
        return [Member(name, "", name) for name in NAMES]

    def pool_of(self, model: str) -> str | None:
        return ""

    async def stream(self, call: Call) -> AsyncGenerator[Frame, None]:
        if call.replica and call.replica not in self.replicas:
            raise EngineNotReady("that replica is gone")
        self.calls.append(call)
        async with aclosing(self.replicas[call.replica or NAMES[0]].stream(call)) as frames:
            async for frame in frames:
                yield frame
                if call.replica == NAMES[1] and call.path in self.dead_paths:
                    if isinstance(frame, Head):
                        continue
                    raise EngineDied


class Twins(Stack):
    """`stack.url` is the ingress in front of both."""

    pool: TwoReplicas

    def __init__(self, folder: Path, **given: Any) -> None:
        self.folders = [folder / name for name in NAMES]
        super().__init__(Settings.model_validate(_of(folder) | given))
        self._given = given

    async def _start(self) -> None:
        await self.restart_shard()
        self._exits.push_async_callback(lambda: self.shard.stop())
        replicas = []
        for name, folder in zip(NAMES, self.folders, strict=True):
            settings = Settings.model_validate(_of(folder) | self._given)
            seat = Seat("", partial(_who, name))
            replica = await Inference.launch(settings, self.connect, seat)
            self._exits.push_async_callback(replica.stop)
            replicas.append(replica)
        self.pool = self.fleet = TwoReplicas(replicas)
        for settings in self._doors:
            self.doors.append(await self._open(settings))
        for door in self.doors:
            await until(lambda door=door: door.answers.has_catalogue)  # type: ignore[misc]


def _who(name: str) -> tuple[str, int]:
    return name, 0


def _of(folder: Path) -> dict[str, Any]:
    return {
        "inference": {"num_gpus": 0, "slots": 2, "context_length": 2048},
        "embedded": {"threads": 1, "store": str(folder)},
        "cache": {"lookup_timeout_s": 5, "lease_s": 5, "catalogue_poll_s": 0.2},
    }
