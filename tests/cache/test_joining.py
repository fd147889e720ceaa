"""Ingresses and a shard over real sockets: who generates, who listens, who leaves or dies when."""

import asyncio
import json
import sys
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from contextvars import ContextVar
from time import monotonic
from typing import Any, Self

import pytest

from serve.cache.outcome import Hit, Miss
from serve.cache.pieces import Piece, Spelling, cut, merged, unpack
from serve.cache.service import AnswerCache
from serve.cache.shard import ShardServer
from serve.errors import EngineDied, EngineNotReady, Overloaded, Unforeseen
from serve.ports import Failed, Frame, Head, Tail
from serve.settings import CacheSettings
from tests.cache.world import (
    DIGEST,
    FINGERPRINT,
    GENERATED,
    MODEL,
    SECRET,
    HandClock,
    at,
    report,
    shard,
    until,
)

NATIVE: dict[str, Any] = {
    "model": "smollm2:135m",
    "prompt": "The sky is",
    "options": {"temperature": 0},
}
SETTINGS = CacheSettings(lease_s=60, lookup_timeout_s=5, catalogue_poll_s=0.02)
HEAD = Head(200, "application/x-ndjson")
TAIL = Tail(DIGEST, DIGEST, FINGERPRINT)
FAILED = Failed("it broke")
LINES = [line + b"\n" for line in GENERATED]
Step = Frame | Exception | asyncio.Event


class ScriptedEngine:
    """What generates: follows a script, and counts."""

    def __init__(self, *script: Step) -> None:
        self.script = script
        self.begun = 0
        self.closed = 0

    async def stream(self) -> AsyncGenerator[Frame, None]:
        self.begun += 1
        try:
            for step in self.script:
                if isinstance(step, Exception):
                    raise step
                if isinstance(step, asyncio.Event):
                    await step.wait()
                else:
                    yield step
        finally:
            self.closed += 1


class Listener:
    """One request of one ingress."""

    def __init__(self, ingress: AnswerCache, engine: ScriptedEngine, **native: Any) -> None:
        self._ingress = ingress
        self._engine = engine
        self._native = NATIVE | native
        self.found: Hit | Miss | None = None
        self.heard: list[Frame] = []
        self.hit: Hit | None = None
        self.task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        found = await self._ingress.lookup("/api/generate", self._native, model=MODEL, tenant="t")
        self.found = found
        if isinstance(found, Hit) or found.seat is None:
            return
        try:
            async with aclosing(found.seat.frames(self._engine.stream)) as frames:
                async for frame in frames:
                    self.heard.append(frame)
            self.hit = found.seat.hit
        finally:
            found.seat.leave()

    @property
    def reason(self) -> str:
        return self.found.reason if isinstance(self.found, Miss) else "hit"

    @property
    def text(self) -> bytes:
        return b"".join(frame for frame in self.heard if isinstance(frame, bytes))

    async def has(self, data: bytes) -> Self:
        await until(lambda: self.text == data)
        return self

    async def leave(self) -> None:
        self.task.cancel()
        await asyncio.wait([self.task])


class Cluster:
    """A shard and some ingresses."""

    def __init__(self, server: ShardServer, ingresses: list[AnswerCache]) -> None:
        self.server = server
        self.ingresses = ingresses

    @property
    def flights(self) -> int:
        return self.server.holdings.flights.count

    @property
    def idle(self) -> bool:
        return not self.flights and all(not ingress.joining.count for ingress in self.ingresses)


@asynccontextmanager
async def cluster(size: int = 3, config: CacheSettings = SETTINGS) -> AsyncGenerator[Cluster]:
    async with shard(config) as (server, address), AsyncExitStack() as ingresses:
        server.holdings.registry._lease_s = 3600
        server.holdings.report(report())
        running = [
            await ingresses.enter_async_context(
                AnswerCache(config, [at(address)], clock=monotonic, now=HandClock())
            )
            for _ in range(size)
        ]
        for ingress in running:
            await until(lambda ingress=ingress: ingress.has_catalogue)  # type: ignore[misc]
        yield Cluster(server, running)


async def test_many_listeners_on_many_ingresses_and_one_generation() -> None:
    more, end = asyncio.Event(), asyncio.Event()
    engine = ScriptedEngine(HEAD, LINES[0], more, LINES[1], end, LINES[2], TAIL)
    async with cluster() as world:
        early = [Listener(world.ingresses[number % 3], engine) for number in range(30)]
        for listener in early:
            await listener.has(LINES[0])
        late = [Listener(world.ingresses[number % 3], engine) for number in range(6)]
        for listener in late:
            await listener.has(LINES[0])  # what there is, at once
        more.set()
        for listener in [*early, *late]:
            await listener.has(LINES[0] + LINES[1])
        end.set()
        for listener in [*early, *late]:
            await listener.task
            assert listener.text == b"".join(LINES)
            assert listener.heard[0] == HEAD
            assert listener.heard[-1] == TAIL
        assert (engine.begun, engine.closed) == (1, 1)
        assert sorted(listener.reason for listener in early) == ["cold"] + ["joined"] * 29
        stats = await world.ingresses[0].shards.stats()
        assert (stats[0].led, stats[0].joined) == (1, 2)  # one asker an ingress
        after = Listener(world.ingresses[1], engine)
        await after.task
        assert after.reason == "hit"
        assert world.idle


async def test_listeners_where_it_was_generated_may_remember_it_in_their_spelling() -> None:
    gate = asyncio.Event()
    engine = ScriptedEngine(HEAD, gate, *LINES, TAIL)
    async with cluster(2) as world:
        leader = Listener(world.ingresses[0], engine)
        await until(lambda: engine.begun == 1)
        spelled = [
            Listener(world.ingresses[number], engine, model="SmolLM2:135M") for number in range(2)
        ]
        await until(lambda: all(listener.found is not None for listener in spelled))
        gate.set()
        for listener in [leader, *spelled]:
            await listener.task
        assert leader.text == b"".join(LINES)
        for listener in spelled:
            assert listener.text == b"".join(LINES).replace(b"smollm2:135m", b"SmolLM2:135M")
        here, there = spelled
        assert here.hit is not None
        assert here.hit.entry.spelled == "SmolLM2:135M"
        assert there.hit is None


async def test_the_leaders_client_may_leave() -> None:
    gate = asyncio.Event()
    engine = ScriptedEngine(HEAD, LINES[0], gate, *LINES[1:], TAIL)
    async with cluster(2) as world:
        leader = await Listener(world.ingresses[0], engine).has(LINES[0])
        follower = await Listener(world.ingresses[1], engine).has(LINES[0])
        await leader.leave()
        back = await Listener(world.ingresses[0], engine).has(LINES[0])
        await back.leave()
        gate.set()
        await follower.task
        assert follower.text == b"".join(LINES)
        assert engine.begun == 1
        again = Listener(world.ingresses[0], engine)
        await again.task
        assert again.reason == "hit"


async def test_a_generation_is_in_no_requests_context() -> None:
    request: ContextVar[str] = ContextVar("request", default="none")
    seen: list[str] = []

    class Engine(ScriptedEngine):
        async def stream(self) -> AsyncGenerator[Frame, None]:
            seen.append(request.get())
            async for frame in super().stream():
                yield frame

    async with cluster(1) as world:
        request.set("the first client's")
        await Listener(world.ingresses[0], Engine(HEAD, *LINES, TAIL)).task
    assert seen == ["none"]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)])
@pytest.mark.parametrize("script", [[], [HEAD], [HEAD, LINES[0]]])
async def test_the_last_to_leave_ends_the_generation(
    order: tuple[int, ...], script: list[Frame]
) -> None:
    engine = ScriptedEngine(*script, asyncio.Event())
    async with cluster(2) as world:
        listeners = [Listener(world.ingresses[0], engine)]
        await until(lambda: engine.begun == 1)
        listeners += [Listener(ingress, engine) for ingress in world.ingresses]
        await until(lambda: all(listener.found is not None for listener in listeners))
        for number in order[:-1]:
            await listeners[number].leave()
        await world.ingresses[0].shards.stats()
        assert engine.closed == 0
        await listeners[order[-1]].leave()
        await until(lambda: engine.closed == 1)
        await until(lambda: world.idle)


async def test_a_generation_without_a_shard_ends_with_its_last_listener() -> None:
    engine = ScriptedEngine(HEAD, LINES[0], asyncio.Event())
    async with cluster(1) as world:
        await world.server.stop()
        listeners = [await Listener(world.ingresses[0], engine).has(LINES[0]) for _ in range(2)]
        assert {listener.reason for listener in listeners} == {"unavailable", "joined"}
        await listeners[0].leave()
        assert engine.closed == 0
        await listeners[1].leave()
        await until(lambda: engine.closed == 1)


async def test_who_leaves_while_asking_holds_nothing_up() -> None:
    engine = ScriptedEngine(HEAD, *LINES, TAIL)
    async with cluster(2) as world:
        leaving = [Listener(world.ingresses[0], engine) for _ in range(2)]
        await asyncio.sleep(0)
        assert world.ingresses[0].joining.count == 1
        for listener in leaving:
            await listener.leave()
        assert world.ingresses[0].joining.count == 0
        staying = Listener(world.ingresses[1], engine)
        await staying.task
        assert staying.text == b"".join(LINES)


async def test_the_first_may_leave_while_asking_and_the_second_stays() -> None:
    engine = ScriptedEngine(HEAD, *LINES, TAIL)
    async with cluster(1) as world:
        first, second = (Listener(world.ingresses[0], engine) for _ in range(2))
        await asyncio.sleep(0)
        await first.leave()
        await second.task
        assert second.text == b"".join(LINES)


@pytest.mark.parametrize(
    "error", [EngineDied(), EngineDied("gone"), Overloaded(), EngineNotReady("no replica")]
)
async def test_what_the_pool_raises_everybody_gets(error: Exception) -> None:
    gate = asyncio.Event()
    engine = ScriptedEngine(gate, error)
    async with cluster(2) as world:
        listeners = [Listener(world.ingresses[number % 2], engine) for number in range(4)]
        await until(lambda: all(listener.found is not None for listener in listeners))
        gate.set()
        await asyncio.wait([listener.task for listener in listeners])
        for listener in listeners:
            raised = listener.task.exception()
            assert type(raised) is type(error)
            assert str(raised) == str(error)
        await until(lambda: world.idle)


async def test_a_fault_of_ours_is_everybodys_and_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    gate = asyncio.Event()
    engine = ScriptedEngine(HEAD, LINES[0], gate, ZeroDivisionError())
    async with cluster(2) as world:
        listeners = [await Listener(one, engine).has(LINES[0]) for one in world.ingresses]
        gate.set()
        await asyncio.wait([listener.task for listener in listeners])
        for listener in listeners:
            assert isinstance(listener.task.exception(), Unforeseen)
        await until(lambda: "a generation failed" in caplog.text)


async def test_a_lost_leader_is_an_error_for_who_has_heard_something() -> None:
    engine = ScriptedEngine(HEAD, LINES[0], asyncio.Event())
    async with cluster(3) as world:
        leader = await Listener(world.ingresses[0], engine).has(LINES[0])
        followers = [
            await Listener(world.ingresses[number], engine).has(LINES[0]) for number in (1, 2)
        ]
        await world.ingresses[0].__aexit__(None, None, None)
        await asyncio.wait([leader.task, *(follower.task for follower in followers)])
        for follower in followers:
            assert isinstance(follower.task.exception(), EngineDied)
            assert follower.text == LINES[0]
        assert isinstance(leader.task.exception(), EngineDied)
        assert engine.closed == 1
        await until(lambda: world.idle)


INGRESS = """
import asyncio, json, sys
from time import monotonic
from serve.cache.service import AnswerCache
from serve.ports import Head
from serve.settings import CacheSettings

port, secret, model, native, lines = json.loads(sys.argv[1])

async def where():
    return "127.0.0.1", port, secret.encode()

async def engine():
    yield Head(200, "application/x-ndjson")
    for line in lines:
        yield line.encode()
    await asyncio.Event().wait()

async def main():
    settings = CacheSettings(lease_s=60, lookup_timeout_s=5)
    async with AnswerCache(settings, [where], clock=monotonic, now=monotonic) as ingress:
        while not ingress.has_catalogue:
            await asyncio.sleep(0.01)
        found = await ingress.lookup("/api/generate", native, model=model, tenant="t")
        print(found.reason, flush=True)
        async for _ in found.seat.frames(engine):
            pass

asyncio.run(main())
"""


@pytest.mark.parametrize("lines", [[], LINES[:1]])
async def test_an_ingress_that_is_killed_frees_its_followers(lines: list[bytes]) -> None:
    engine = ScriptedEngine(HEAD, *LINES, TAIL)
    async with cluster(2) as world:
        _, port = world.server._server.sockets[0].getsockname()  # type: ignore[union-attr]
        asked = json.dumps(
            [port, SECRET.decode(), MODEL, NATIVE, [line.decode() for line in lines]]
        )
        ingress = await asyncio.create_subprocess_exec(
            sys.executable, "-c", INGRESS, asked, stdout=asyncio.subprocess.PIPE
        )
        assert ingress.stdout is not None
        assert await ingress.stdout.readline() == b"cold\n"
        followers = [Listener(ingress, engine) for ingress in world.ingresses]
        for follower in followers:
            await follower.has(b"".join(lines))
            await until(lambda follower=follower: follower.found is not None)  # type: ignore[misc]
            assert follower.reason == "joined"
        ingress.kill()
        await ingress.communicate()
        await asyncio.wait([follower.task for follower in followers])
        for follower in followers:
            assert isinstance(follower.task.exception(), EngineDied)
        again = [Listener(ingress, engine) for ingress in world.ingresses]
        for listener in again:
            await listener.task
        assert engine.begun == 1


async def test_a_lost_shard_ends_no_generation_and_frees_its_followers() -> None:
    gate = asyncio.Event()
    engine = ScriptedEngine(HEAD, LINES[0], gate, *LINES[1:], TAIL)
    async with cluster(2) as world:
        leader = await Listener(world.ingresses[0], engine).has(LINES[0])
        follower = await Listener(world.ingresses[1], engine).has(LINES[0])
        await world.server.stop()
        await asyncio.wait([follower.task])
        assert isinstance(follower.task.exception(), EngineDied)
        alone = await Listener(world.ingresses[1], engine).has(LINES[0])
        assert alone.reason == "unavailable"
        gate.set()
        await leader.task
        await alone.task
        assert leader.text == alone.text == b"".join(LINES)
        assert engine.begun == 2


async def test_a_deserted_generation_ends_with_the_shard() -> None:
    engine = ScriptedEngine(HEAD, LINES[0], asyncio.Event())
    async with cluster(2) as world:
        leader = await Listener(world.ingresses[0], engine).has(LINES[0])
        follower = await Listener(world.ingresses[1], engine).has(LINES[0])
        await leader.leave()
        await world.server.stop()
        await asyncio.wait([follower.task])
        await until(lambda: engine.closed == 1)


async def test_a_shard_that_does_not_answer_is_waited_for_only_so_long() -> None:
    settings = SETTINGS.model_copy(update={"lookup_timeout_s": 0.05})
    engine = ScriptedEngine(HEAD, *LINES, TAIL)
    async with cluster(1, settings) as world:
        (connection,) = world.server._connections
        connection._transport.pause_reading()
        listener = Listener(world.ingresses[0], engine)
        await listener.task
        assert listener.reason == "unavailable"
        assert listener.text == b"".join(LINES)
        connection._transport.resume_reading()
        await until(lambda: world.server.holdings.flights.led == 1)
        await until(lambda: world.idle)  # the seat that came too late was given back


async def test_a_leader_that_is_silent_is_let_go_and_goes_on_alone() -> None:
    gate = asyncio.Event()
    engine = ScriptedEngine(HEAD, LINES[0], gate, *LINES[1:], TAIL)
    async with cluster(2) as world:
        leader = await Listener(world.ingresses[0], engine).has(LINES[0])
        follower = await Listener(world.ingresses[1], engine).has(LINES[0])
        for flight in world.server.holdings.flights._open.values():
            flight.until = 0
        await asyncio.wait([follower.task])
        assert isinstance(follower.task.exception(), EngineDied)
        gate.set()
        await leader.task
        assert leader.text == b"".join(LINES)


async def test_a_leader_that_waits_for_its_engine_shows_that_it_lives() -> None:
    settings = SETTINGS.model_copy(update={"lease_s": 0.1})
    gate = asyncio.Event()
    engine = ScriptedEngine(gate, HEAD, *LINES, TAIL)
    async with cluster(2, settings) as world:
        listeners = [Listener(ingress, engine) for ingress in world.ingresses]
        await until(lambda: all(listener.found is not None for listener in listeners))
        (flight,) = world.server.holdings.flights._open.values()
        first = flight.until
        await until(lambda: flight.until > first + 1)
        gate.set()
        for listener in listeners:
            await listener.task
            assert listener.text == b"".join(LINES)
        assert engine.begun == 1


async def test_a_follower_that_does_not_read_gets_everything_later() -> None:
    large = b'{"model":"smollm2:135m","response":"%s","done":false}\n' % (b"x" * 40_000)
    gate = asyncio.Event()
    engine = ScriptedEngine(HEAD, gate, *[large] * 12, *LINES, TAIL)
    async with cluster(2) as world:
        leader = Listener(world.ingresses[0], engine)
        await until(lambda: engine.begun == 1)
        follower = Listener(world.ingresses[1], engine)
        await until(lambda: follower.found is not None)
        (seat,) = world.server.holdings.flights._followed
        connection = world.server._numbered[seat[0]]
        connection.pause_writing()  # as asyncio does when too much is unread
        gate.set()
        await leader.task
        await until(lambda: world.flights == 0)
        assert not follower.heard
        connection.resume_writing()
        await follower.task
        assert follower.text == leader.text == large * 12 + b"".join(LINES)
        assert world.server.holdings.flights.held_bytes == 0


async def test_too_far_behind_is_an_error() -> None:
    engine = ScriptedEngine(HEAD, *LINES, TAIL)
    async with cluster(1) as world:
        world.ingresses[0].joining.max_bytes = len(LINES[0])
        listener = Listener(world.ingresses[0], engine)
        await asyncio.wait([listener.task])
        assert isinstance(listener.task.exception(), EngineDied)
        assert not world.ingresses[0].dropped


async def test_who_comes_when_the_beginning_has_gone_generates_for_himself() -> None:
    gate = asyncio.Event()
    engine = ScriptedEngine(HEAD, LINES[0], gate, *LINES[1:], TAIL)
    async with cluster(2) as world:
        leader = await Listener(world.ingresses[0], engine).has(LINES[0])
        (flight,) = world.server.holdings.flights._open.values()
        await until(lambda: flight.backlog.end == 1)
        flight.backlog.add(b"", 1)
        flight.backlog._drop()
        alone = await Listener(world.ingresses[1], engine).has(LINES[0])
        joined = await Listener(world.ingresses[1], engine).has(LINES[0])
        assert (alone.reason, joined.reason, engine.begun) == ("cold", "joined", 2)
        gate.set()
        for listener in (leader, alone, joined):
            await listener.task
            assert listener.text == b"".join(LINES)


async def test_a_shard_lost_while_it_is_asked_is_no_shard() -> None:
    engine = ScriptedEngine(HEAD, *LINES, TAIL)
    async with cluster(1) as world:
        (connection,) = world.server._connections
        connection._transport.pause_reading()
        listeners = [Listener(world.ingresses[0], engine) for _ in range(2)]
        await asyncio.sleep(0.02)
        assert not any(listener.found for listener in listeners)
        connection.drop()
        for listener in listeners:
            await listener.task
            assert listener.text == b"".join(LINES)
        assert {listener.reason for listener in listeners} == {"unavailable", "joined"}
        assert engine.begun == 1


@pytest.mark.parametrize("is_lost", [False, True])
async def test_a_shard_that_does_not_read_holds_up_followers_only(*, is_lost: bool) -> None:
    gate = asyncio.Event()
    engine = ScriptedEngine(HEAD, LINES[0], gate, *LINES[1:], TAIL)
    async with cluster(2) as world:
        leader = await Listener(world.ingresses[0], engine).has(LINES[0])
        follower = await Listener(world.ingresses[1], engine).has(LINES[0])
        link = world.ingresses[0].shards._clients[0]._link
        assert link is not None
        link.pause_writing()  # as asyncio does when too much is unsent
        gate.set()
        await leader.task
        assert leader.text == b"".join(LINES)
        assert follower.text == LINES[0]
        if is_lost:
            link._transport.abort()
        else:
            link.resume_writing()
        await asyncio.wait([follower.task])
        assert isinstance(follower.task.exception(), EngineDied) == is_lost
        assert follower.text == (LINES[0] if is_lost else b"".join(LINES))


async def test_one_whole_body_comes_in_one_piece() -> None:
    body = b'{"model":"smollm2:135m","embeddings":[[1.0]]}'
    gate = asyncio.Event()
    head = Head(200, "application/json; charset=utf-8")
    engine = ScriptedEngine(head, body[:12], gate, body[12:], TAIL)
    async with cluster(2) as world:
        listeners = [
            Listener(ingress, engine, model=spelled)
            for ingress in world.ingresses
            for spelled in ("smollm2:135m", "SmolLM2:135M")
        ]
        await until(lambda: all(listener.found is not None for listener in listeners))
        gate.set()
        for listener in listeners:
            await listener.task
        assert [listener.text for listener in listeners] == [
            body,
            body.replace(b"smollm2:135m", b"SmolLM2:135M"),
        ] * 2
        assert engine.begun == 1


async def test_a_refusal_of_the_engine_is_for_everybody_and_for_nobody_to_keep() -> None:
    gate = asyncio.Event()
    head = Head(404, "application/json; charset=utf-8")
    engine = ScriptedEngine(gate, head, b'{"error":"no"}')
    async with cluster(2) as world:
        listeners = [Listener(ingress, engine) for ingress in world.ingresses]
        await until(lambda: all(listener.found is not None for listener in listeners))
        gate.set()
        for listener in listeners:
            await listener.task
            assert listener.heard == [head, b'{"error":"no"}']
        again = Listener(world.ingresses[0], engine)
        await again.task
        assert (again.reason, engine.begun) == ("cold", 2)


async def test_sampled_requests_are_joined_only_where_that_is_meant() -> None:
    sampled: dict[str, Any] = {"options": {"temperature": 1}}
    for is_meant in (False, True):
        gate = asyncio.Event()
        engine = ScriptedEngine(gate, HEAD, *LINES, TAIL)
        settings = SETTINGS.model_copy(update={"join_sampled": is_meant})
        async with cluster(2, settings) as world:
            listeners = [Listener(ingress, engine, **sampled) for ingress in world.ingresses]
            await until(lambda: all(listener.found is not None for listener in listeners))  # noqa: B023
            reasons = sorted(listener.reason for listener in listeners)
            assert reasons == (["joined", "sampled"] if is_meant else ["sampled"] * 2)
            gate.set()
            await asyncio.wait([listener.task for listener in listeners])
            assert engine.begun == int(is_meant)
            if is_meant:
                assert [listener.text for listener in listeners] == [b"".join(LINES)] * 2
            for _ in range(2):  # never kept
                again = Listener(world.ingresses[0], engine, **sampled)
                await again.task
                assert again.reason == "sampled"


@pytest.mark.parametrize("is_led_there", [False, True])
async def test_who_asks_after_a_purge_hears_no_generation_from_before_it(
    *, is_led_there: bool
) -> None:
    gate = asyncio.Event()
    old = ScriptedEngine(HEAD, LINES[0], gate, *LINES[1:], TAIL)
    new = ScriptedEngine(HEAD, LINES[0].replace(b"The", b"New"), gate, *LINES[1:], TAIL)
    async with cluster(2) as world:
        first, second = world.ingresses if is_led_there else world.ingresses[::-1]
        before = [await Listener(first, old).has(LINES[0])]
        before += [await Listener(second, old).has(LINES[0])]
        await world.ingresses[0].shards.purge()
        after = [Listener(ingress, new) for ingress in (second, first, second)]
        for listener in after:
            await listener.has(new.script[1])  # type: ignore[arg-type]
        assert sorted(listener.reason for listener in after) == ["cold", "joined", "joined"]
        gate.set()
        for listener in [*before, *after]:
            await listener.task
        assert {listener.text for listener in before} == {b"".join(LINES)}
        assert (old.begun, new.begun) == (1, 1)
        again = Listener(first, old)
        await again.task
        assert isinstance(again.found, Hit)  # and what is kept is the new one
        assert b"New" in again.found.entry.lines[0]
        await until(lambda: world.idle)


async def test_pieces_say_what_the_frames_said() -> None:
    async def frames() -> AsyncGenerator[Frame, None]:
        said: list[Frame] = [HEAD, *LINES, TAIL]
        for frame in said:
            yield frame

    pieces = [unpack(piece.pack()) async for piece in cut(frames(), "m")]
    assert pieces[0].head == HEAD
    for together in (pieces, [merged(pieces)]):
        spelling = Spelling("m")
        said = [frame for piece in together for frame in spelling.frames(piece)]
        assert b"".join(frame for frame in said if isinstance(frame, bytes)) == b"".join(LINES)
        assert (said[0], said[-1]) == (HEAD, TAIL)


@pytest.mark.parametrize(
    ("said", "pieces"),
    [
        ([], []),
        ([HEAD], [Piece(b"", HEAD, None, "m")]),
        ([HEAD, FAILED], [Piece(b"", HEAD, None, "m", FAILED)]),
        ([HEAD, b"a\n", FAILED], [Piece(b"a\n", HEAD, None, "m"), Piece(failed=FAILED)]),
        ([HEAD, TAIL], [Piece(b"", HEAD, TAIL, "m")]),
        ([HEAD, b"a\n", TAIL], [Piece(b"a\n", HEAD, None, "m"), Piece(b"", None, TAIL)]),
    ],
)
async def test_an_answer_that_says_little(said: list[Frame], pieces: list[Piece]) -> None:
    async def frames() -> AsyncGenerator[Frame, None]:
        for frame in said:
            yield frame

    assert [piece async for piece in cut(frames(), "m")] == pieces
