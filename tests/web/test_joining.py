"""Single flight as clients see it: ingresses over one scripted pool and a real shard."""

import asyncio
import json
import random
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from time import monotonic, time
from typing import Any

import pytest

from serve.cache.service import AnswerCache
from serve.cache.shard import ShardServer
from serve.errors import RUNNER_DIED, EngineDied, Overloaded
from serve.ports import Call, Failed, Frame, Head, Tail
from serve.settings import AuthSettings, CacheSettings
from serve.web.app import create_app
from serve.web.gateway import Gateway
from serve.web.identity import Directory
from serve.web.journal import Journal
from serve.web.meter import Meter, Verdict
from serve.web.origin import Hosts, Origins
from serve.web.services import Services
from tests.asgi import Caller
from tests.cache.world import DIGEST, FINGERPRINT, at, report, shard, until
from tests.web.scripted_pool import NDJSON, ScriptedPool, Step, line

MODEL = "registry.ollama.ai/library/m:latest"
SETTINGS = CacheSettings(lease_s=60, lookup_timeout_s=5, catalogue_poll_s=0.02)
TAIL = Tail(DIGEST, DIGEST, FINGERPRINT)
NATIVE = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
CHAT = json.dumps(NATIVE | {"options": {"temperature": 0.0, "top_p": 1.0}}).encode()
WHOLE = json.dumps(
    NATIVE | {"options": {"temperature": 0.0, "top_p": 1.0}, "stream": False}
).encode()
OPENAI = json.dumps(NATIVE | {"temperature": 0, "stream": True}).encode()
OPENAI_WHOLE = json.dumps(NATIVE | {"temperature": 0}).encode()
FORMS = [
    ("/api/chat", CHAT),
    ("/api/chat", WHOLE),
    ("/v1/chat/completions", OPENAI),
    ("/v1/chat/completions", OPENAI_WHOLE),
]
ANSWER = [line("a"), line("b"), line("", done=True)]
DIED = b'{"error":"an error was encountered while running the model: unexpected EOF"}\n'


class ScriptedPools(ScriptedPool):
    """One script for each call; the last one for all that follow."""

    def __init__(self, *scripts: Sequence[Step]) -> None:
        super().__init__(scripts[0])
        self._scripts = list(scripts)

    async def stream(self, call: Call) -> AsyncGenerator[Frame, None]:
        self.script = self._scripts.pop(0) if len(self._scripts) > 1 else self._scripts[0]
        async for frame in super().stream(call):
            yield frame


class Client:
    """One request to one ingress, running."""

    def __init__(self, app: Gateway, path: str, body: bytes, control: bytes) -> None:
        headers = [(b"cache-control", control)] if control else []
        self.caller = Caller("POST", path, body, headers)
        self.task = asyncio.get_running_loop().create_task(self.caller.run(app))

    async def done(self) -> Caller:
        await asyncio.wait_for(self.task, 10)
        assert self.caller.is_whole
        return self.caller

    async def leave(self) -> None:
        self.caller.leave()
        await asyncio.wait_for(self.task, 10)

    @property
    def verdict(self) -> bytes:
        return self.caller.headers[b"x-rayllama-cache"]


class Fleet:
    """Some ingresses, one pool, one shard."""

    def __init__(self, server: ShardServer, pool: ScriptedPool) -> None:
        self.server = server
        self.pool = pool
        self.answers: list[AnswerCache] = []
        self.meters: list[Meter] = []
        self._apps: list[Gateway] = []

    def add(self, answers: AnswerCache, deadline_s: float | None) -> None:
        self.answers.append(answers)
        self.meters.append(Meter())
        self._apps.append(
            create_app(
                Services(
                    inference=self.pool,
                    answers=answers,
                    directory=Directory(AuthSettings()),
                    origins=Origins(),
                    hosts=Hosts(loopback=True),
                    meter=self.meters[-1],
                    journal=Journal(self.meters[-1], 1.0, random.Random(1)),
                    now=time,
                    max_body_bytes=1000,
                    deadline_s=deadline_s,
                )
            )
        )

    def ask(
        self, ingress: int, path: str = "/api/chat", body: bytes = CHAT, control: bytes = b""
    ) -> Client:
        return Client(self._apps[ingress], path, body, control)

    async def heard(self, client: Client, body: bytes) -> Client:
        await until(lambda: client.caller.body == body)
        return client

    async def joined(self, count: int) -> None:
        """Until so many requests have a seat."""

        def seated() -> int:
            flights = [flight for one in self.answers for flight in one.joining._flights.values()]
            return sum(flight._listeners for flight in flights if flight.found.done())

        await until(lambda: seated() == count)

    @property
    def is_idle(self) -> bool:
        return (
            self.pool.closed == len(self.pool.calls)
            and not self.server.holdings.flights.count
            and not any(answers.joining.count for answers in self.answers)
            and not any(meter.in_flight for meter in self.meters)
        )


Lose = Callable[[Fleet], Coroutine[Any, Any, None]]


@asynccontextmanager
async def fleet(
    *scripts: Sequence[Step], size: int = 2, deadline_s: float | None = None
) -> AsyncGenerator[Fleet]:
    async with shard(SETTINGS) as (server, address), AsyncExitStack() as running:
        server.holdings.registry._lease_s = 3600
        server.holdings.report(report(**{MODEL: DIGEST}))
        found = Fleet(server, ScriptedPools(*scripts))
        for _ in range(size):
            answers = AnswerCache(SETTINGS, [at(address)], clock=monotonic, now=time)
            await running.enter_async_context(answers)
            await until(lambda answers=answers: answers.has_catalogue)  # type: ignore[misc]
            found.add(answers, deadline_s)
        yield found
        await until(lambda: found.is_idle)


async def test_one_generation_for_every_dialect_and_form_on_every_ingress() -> None:
    gate = asyncio.Event()
    async with fleet([NDJSON, ANSWER[0], gate, *ANSWER[1:], TAIL], size=3) as world:
        clients = [world.ask(ingress, *form) for ingress in range(3) for form in FORMS * 4]
        await world.joined(48)
        gate.set()
        whole = [await client.done() for client in clients]
        assert len(world.pool.calls) == 1
        assert [caller.status for caller in whole] == [200] * 48
        by_form = [{caller.body for caller in whole[number::4]} for number in range(4)]
        assert [len(bodies) for bodies in by_form] == [1] * 4
        ((native,), (native_whole,), (events,), (completion,)) = by_form
        assert native == b"".join(ANSWER)
        assert json.loads(native_whole)["message"]["content"] == "ab"
        assert events.endswith(b"data: [DONE]\n\n")
        assert json.loads(completion)["choices"][0]["message"]["content"] == "ab"
        verdicts = sorted(client.verdict for client in clients)
        assert verdicts == [b"miss; reason=cold"] + [b"miss; reason=joined"] * 47
        counted = sum((meter.drain()[0] for meter in world.meters[1:]), world.meters[0].drain()[0])
        assert counted[Verdict("miss", "joined")] == 47
        for ingress, verdict in ((0, b"hit; tier=near"), (1, b"hit; tier=shared")):
            for form, body in zip(FORMS, (native, native_whole, events, completion), strict=True):
                hit = world.ask(ingress, *form)
                assert (await hit.done()).body == body
                assert hit.verdict == verdict


async def test_who_comes_late_gets_what_there_is_and_then_every_line() -> None:
    gates = [asyncio.Event() for _ in range(2)]
    script: list[Step] = [NDJSON, ANSWER[0], gates[0], ANSWER[1], gates[1], ANSWER[2], TAIL]
    async with fleet(script) as world:
        await world.heard(world.ask(0), ANSWER[0])
        clients = [await world.heard(world.ask(number), ANSWER[0]) for number in (0, 1, 1)]
        gates[0].set()
        for client in clients:
            await world.heard(client, ANSWER[0] + ANSWER[1])
        gates[1].set()
        for client in clients:
            bodies = [message["body"] for message in (await client.done()).sent[1:]]
            assert bodies == [*ANSWER, b""]
            assert client.verdict == b"miss; reason=joined"


@pytest.mark.parametrize("body", [CHAT, WHOLE])
async def test_the_first_client_may_leave(body: bytes) -> None:
    gate = asyncio.Event()
    async with fleet([NDJSON, ANSWER[0], gate, *ANSWER[1:], TAIL]) as world:
        leader = world.ask(0, body=body)
        await until(lambda: bool(world.pool.calls))
        others = [world.ask(number) for number in (0, 1)]
        for client in others:
            await world.heard(client, ANSWER[0])
        await leader.leave()
        gate.set()
        for client in others:
            assert (await client.done()).body == b"".join(ANSWER)
        assert len(world.pool.calls) == 1
        assert world.meters[0].statuses["/api/chat", 499] == 1
        assert (await world.ask(1).done()).body == b"".join(ANSWER)
        assert len(world.pool.calls) == 1


async def test_the_client_of_the_last_ingress_ends_the_generation() -> None:
    async with fleet([NDJSON, ANSWER[0], asyncio.Event()]) as world:
        leader = await world.heard(world.ask(0), ANSWER[0])
        others = [await world.heard(world.ask(number), ANSWER[0]) for number in (1, 0, 1)]
        for client in (leader, *others[:-1]):
            await client.leave()
        assert world.pool.closed == 0
        await others[-1].leave()
        await until(lambda: world.pool.closed == 1)


async def test_each_client_has_its_own_deadline() -> None:
    async with fleet([asyncio.Event()], deadline_s=0.02) as world:
        for client in [world.ask(number % 2) for number in range(4)]:
            assert (await client.done()).status == 504
        await until(lambda: world.pool.closed == len(world.pool.calls))


async def lose_the_ingress(world: Fleet) -> None:
    """As when its process ends: its connection, its tasks and its clients are gone."""
    (connection,) = [
        one
        for one in world.server._connections
        if world.server.holdings.flights._led.keys()
        & {(one.number, number) for number in one._seats._taken}
    ]
    connection.drop()


async def lose_the_shard(world: Fleet) -> None:
    await world.server.stop()


@pytest.mark.parametrize("lose", [lose_the_ingress, lose_the_shard])
async def test_followers_that_got_nothing_start_again_together(lose: Lose) -> None:
    gate = asyncio.Event()
    script: list[Step] = [gate, NDJSON, *ANSWER, TAIL]
    async with fleet(script, size=3) as world:
        leader = world.ask(0)
        await until(lambda: bool(world.pool.calls))
        followers = [world.ask(ingress, *form) for ingress in (1, 2) for form in FORMS]
        await world.joined(9)
        await lose(world)
        again = 2 if lose is lose_the_ingress else 3  # without a shard, once in each ingress
        await until(lambda: len(world.pool.calls) == again)
        await world.joined(9)
        gate.set()
        for client in (leader, *followers):
            assert (await client.done()).status == 200
        assert len(world.pool.calls) == again


@pytest.mark.parametrize("lose", [lose_the_ingress, lose_the_shard])
async def test_followers_that_got_something_end_with_an_error_and_the_leader_goes_on(
    lose: Lose,
) -> None:
    gate = asyncio.Event()
    async with fleet([NDJSON, ANSWER[0], gate, *ANSWER[1:], TAIL]) as world:
        leader = await world.heard(world.ask(0), ANSWER[0])
        native = await world.heard(world.ask(1), ANSWER[0])
        events = world.ask(1, "/v1/chat/completions", OPENAI)
        await until(lambda: len(events.caller.sent) > 1)
        whole = world.ask(1, body=WHOLE)
        await world.joined(4)
        await lose(world)
        assert (await native.done()).body == ANSWER[0] + DIED
        last = (await events.done()).body.decode().split("\n\n")[-2]
        assert json.loads(last.removeprefix("data: "))["error"]["type"] == "api_error"
        await until(lambda: len(world.pool.calls) == 2)  # its client has seen nothing
        gate.set()
        assert (await leader.done()).body == b"".join(ANSWER)
        assert json.loads((await whole.done()).body)["message"]["content"] == "ab"


async def test_a_replica_lost_before_the_first_line_costs_one_more_generation() -> None:
    gate = asyncio.Event()
    lost: list[Step] = [gate, EngineDied()]
    async with fleet(lost, [NDJSON, *ANSWER, TAIL]) as world:
        clients = [world.ask(ingress, *form) for ingress in (0, 1) for form in FORMS]
        await world.joined(8)
        gate.set()
        for client in clients:
            caller = await client.done()
            assert caller.status == 200
            said = [value for name, value in caller.sent[0]["headers"] if name == b"cache-status"]
            assert len(said) == 1
        assert len(world.pool.calls) == 2


async def test_who_takes_no_new_answer_neither_leads_nor_joins() -> None:
    gate = asyncio.Event()
    async with fleet([NDJSON, ANSWER[0], gate, *ANSWER[1:], TAIL]) as world:
        assert (await world.ask(0, control=b"only-if-cached").done()).status == 504
        assert world.is_idle
        leader = await world.heard(world.ask(0), ANSWER[0])
        for ingress in (0, 1):
            refused = world.ask(ingress, control=b"only-if-cached")
            assert (await refused.done()).status == 504
            assert refused.verdict == b"miss; reason=cold"
        gate.set()
        assert (await leader.done()).body == b"".join(ANSWER)
        assert len(world.pool.calls) == 1


async def test_a_replica_that_is_lost_again_is_an_error_for_all() -> None:
    async with fleet([NDJSON, EngineDied("gone")]) as world:
        clients = [world.ask(ingress) for ingress in (0, 1)]
        for client in clients:
            caller = await client.done()
            assert (caller.status, json.loads(caller.body)) == (500, {"error": "gone"})
        assert len(world.pool.calls) <= 4


@pytest.mark.parametrize("last", [EngineDied(), Failed(RUNNER_DIED)])
async def test_a_replica_lost_in_mid_stream_is_everybodys_last_line(last: Step) -> None:
    gate = asyncio.Event()
    async with fleet([NDJSON, ANSWER[0], gate, last]) as world:
        clients = [await world.heard(world.ask(number), ANSWER[0]) for number in (0, 1, 1)]
        gate.set()
        for client in clients:
            assert (await client.done()).body == ANSWER[0] + DIED
        assert len(world.pool.calls) == 1


async def test_a_refusal_is_everybodys() -> None:
    gate = asyncio.Event()
    missing = Head(404, "application/json; charset=utf-8")
    scripts: list[tuple[list[Step], int]] = [
        ([gate, Overloaded()], 503),
        ([gate, missing, b'{"error":"model \'m\' not found"}'], 404),
        ([gate, NDJSON, DIED], 200),
    ]
    for script, status in scripts:
        gate.clear()
        async with fleet(script) as world:
            clients = [world.ask(number) for number in (0, 1)]
            await world.joined(2)
            gate.set()
            for client in clients:
                assert (await client.done()).status == status
            assert len(world.pool.calls) == 1


async def test_what_is_kept_by_none_is_asked_each_time() -> None:
    sampled = json.dumps(NATIVE).encode()
    async with fleet([NDJSON, *ANSWER, TAIL]) as world:
        for client in [world.ask(number, body=sampled) for number in (0, 0, 1)]:
            await client.done()
            assert client.verdict == b"bypass; reason=sampled"
        assert len(world.pool.calls) == 3


async def test_serves_own_cancellation_is_a_leaving_too() -> None:
    async with fleet([NDJSON, ANSWER[0], asyncio.Event()]) as world:
        client = await world.heard(world.ask(0), ANSWER[0])
        client.task.cancel()
        with suppress(asyncio.CancelledError):
            await client.task
        await until(lambda: world.pool.closed == 1)
