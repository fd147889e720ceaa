import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from time import monotonic

import pytest
from msgspec.structs import replace

from serve.cache import connection as module
from serve.cache.protocol import (
    MAX_HELLO_BYTES,
    VERSION,
    Answer,
    Ask,
    Confirm,
    Confirmed,
    Frames,
    Get,
    Hello,
    Hit,
    Miss,
    Purge,
    Purged,
    Question,
    Renew,
    Renewed,
    Reported,
    Stats,
    Subscribe,
    Taken,
    Viewed,
    Welcome,
    decode_answer,
    frame,
)
from serve.cache.shard import ShardServer
from serve.cache.store import OVERHEAD_BYTES
from serve.settings import CacheSettings
from tests.cache.world import DIGEST, KEY, MODEL, SECRET, HandClock, put, report, shard, until

SETTINGS = CacheSettings(max_entry_bytes=1 << 20, catalogue_poll_s=0.1)
HELLO = Hello(VERSION, SECRET)


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    """Both loops: they differ in what they forgive, and Ray's processes use uvloop."""
    return "asyncio", {"use_uvloop": request.param}


class Peer:
    """Whoever connects to a shard, saying exactly what a test wants."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._frames = Frames(1 << 24)
        self._heard: list[Answer] = []

    def say(self, *questions: Question) -> None:
        self.send(b"".join(map(frame, questions)))

    def send(self, data: bytes) -> None:
        self._writer.write(data)

    async def hear(self) -> Answer | None:
        """The next answer; None if the shard closed the connection."""
        while not self._heard:
            try:
                data = await asyncio.wait_for(self._reader.read(1 << 16), 10)
            except ConnectionError:
                return None
            if not data:
                return None
            self._heard.extend(map(decode_answer, self._frames.feed(data)))
        return self._heard.pop(0)

    def close(self) -> None:
        self._writer.close()


Connect = Callable[..., Awaitable[Peer]]


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
async def server(clock: HandClock) -> AsyncGenerator[ShardServer]:
    async with shard(SETTINGS, clock) as (running, _):
        yield running


@pytest.fixture
async def connect(server: ShardServer) -> AsyncGenerator[Connect]:
    peers: list[Peer] = []

    async def connecting(*, greet: bool = True) -> Peer:
        assert server._server is not None
        _, port = server._server.sockets[0].getsockname()
        peer = Peer(*await asyncio.open_connection("127.0.0.1", port))
        peers.append(peer)
        if greet:
            peer.say(HELLO)
            assert await peer.hear() == Welcome(VERSION)
        return peer

    yield connecting
    for peer in peers:
        peer.close()


async def test_answers_in_order_and_by_id(connect: Connect, server: ShardServer) -> None:
    peer, generation = await connect(), server.holdings.generation
    peer.say(Reported(report()), put(KEY, b"packed"), Get(7, KEY), Get(8, b"x" * 16), Renew(9))
    answers = [Hit(7, b"packed"), Miss(8), Renewed(9, 1, generation)]
    assert [await peer.hear() for _ in range(3)] == answers


@pytest.mark.parametrize(
    "first",
    [
        frame(Hello(VERSION, b"wrong")),
        frame(Hello(VERSION + 1, SECRET)),
        frame(Get(1, KEY)),
        b"GET / HTTP/1.1\r\n\r\n",
        b"\0\0\0\x01\xc1",
        (MAX_HELLO_BYTES + 1).to_bytes(4, "big"),
        b"\0\0\0\0",
    ],
)
async def test_a_stranger_hears_nothing(
    connect: Connect, server: ShardServer, first: bytes
) -> None:
    peer = await connect(greet=False)
    peer.send(first)
    assert await peer.hear() is None
    await until(lambda: not server._connections)


async def test_who_says_nothing_is_sent_away(
    connect: Connect, server: ShardServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "HELLO_WITHIN_S", 0.01)
    peer = await connect(greet=False)
    assert await peer.hear() is None


@pytest.mark.parametrize(
    "nonsense", [frame(HELLO), b"\0\0\0\x01\xc1", b"\xff\xff\xff\xff", b"\0\0\0\0"]
)
async def test_nonsense_ends_one_connection_only(
    connect: Connect, server: ShardServer, nonsense: bytes
) -> None:
    peer, other = await connect(), await connect()
    generation = server.holdings.generation
    peer.send(frame(Renew(1)) + nonsense + frame(Renew(2)))
    while (heard := await peer.hear()) is not None:
        assert heard == Renewed(1, 0, generation)
    other.say(Renew(3))
    assert await other.hear() == Renewed(3, 0, generation)


async def test_stores_only_what_its_replicas_vouch_for(connect: Connect) -> None:
    peer = await connect()
    peer.say(
        put(), Get(1, KEY), Reported(report()), put(digest="old"), Get(2, KEY), put(), Get(3, KEY)
    )
    assert [await peer.hear() for _ in range(3)] == [Miss(1), Miss(2), Hit(3, b"packed")]
    peer.say(put(packed=bytes(SETTINGS.max_entry_bytes + 1)), Ask(4))
    stats = await peer.hear()
    assert isinstance(stats, Stats)
    assert stats.refused == {"digest": 2, "too-large": 1}
    assert (stats.hits, stats.misses, stats.stored, stats.replicas) == (1, 2, 1, 1)


async def test_refuses_what_the_whole_store_could_not_hold(clock: HandClock) -> None:
    settings = CacheSettings(max_bytes=10_000, max_entry_bytes=20_000)
    async with shard(settings, clock) as (server, _):
        server.holdings.report(report())
        assert server.holdings.put(put(packed=bytes(10_000))) == "too-large"


async def test_a_changed_tag_hides_what_it_was_and_changing_back_shows_it(connect: Connect) -> None:
    peer = await connect()
    peer.say(Reported(report()), put(), Get(1, KEY))
    peer.say(Reported(report(**{MODEL: "new"})), Get(2, KEY), Reported(report()), Get(3, KEY))
    assert [await peer.hear() for _ in range(3)] == [Hit(1, b"packed"), Miss(2), Hit(3, b"packed")]


async def test_an_entry_lives_no_longer_than_the_settings_say(
    connect: Connect, clock: HandClock
) -> None:
    peer = await connect()
    peer.say(Reported(report()), put(ttl_s=10 * SETTINGS.ttl_s), Renew(1))
    await peer.hear()
    clock.advance(SETTINGS.ttl_s)
    peer.say(Reported(report()), Get(2, KEY))
    assert await peer.hear() == Miss(2)


async def test_tells_subscribers_of_every_change(connect: Connect, clock: HandClock) -> None:
    subscriber, replica = await connect(), await connect()
    subscriber.say(Subscribe(1))
    first = await subscriber.hear()
    assert isinstance(first, Viewed)
    assert (first.id, first.view.epoch, dict(first.view.models)) == (1, 0, {})
    replica.say(Reported(report()))
    told = await subscriber.hear()
    assert isinstance(told, Viewed)
    assert (told.id, told.view.epoch, told.view.models[MODEL].digest) == (0, 1, DIGEST)
    clock.advance(10)  # the replica falls silent; nobody says anything
    told = await subscriber.hear()
    assert isinstance(told, Viewed)
    assert (told.view.epoch, dict(told.view.models)) == (2, {})


async def test_news_does_not_overtake_answers(connect: Connect) -> None:
    """Else a subscriber could end with the older view."""
    peer = await connect()
    peer.say(Subscribe(1), Renew(2), Reported(report()), Renew(3))
    epochs = []
    for _ in range(4):
        heard = await peer.hear()
        epochs.append(heard.view.epoch if isinstance(heard, Viewed) else heard.epoch)  # type: ignore[union-attr]
    assert epochs == [0, 0, 1, 1]


async def test_a_purge_is_told_to_subscribers(connect: Connect) -> None:
    subscriber, peer = await connect(), await connect()
    subscriber.say(Subscribe(1))
    first = await subscriber.hear()
    peer.say(Reported(report()), put(), Purge(2, MODEL), Get(3, KEY))
    assert await peer.hear() == Miss(3)
    await subscriber.hear()
    told = await subscriber.hear()
    assert isinstance(first, Viewed)
    assert isinstance(told, Viewed)
    assert (told.generation, told.change) == (first.generation + 1, first.change + 2)
    peer.say(Purge(4, dry_run=True), Get(5, KEY))
    assert [await peer.hear() for _ in range(2)] == [Purged(4, 0), Miss(5)]  # not yet: 2
    subscriber.say(Taken(told.change))
    assert await peer.hear() == Purged(2, 1, len(KEY) + len(b"packed") + OVERHEAD_BYTES)


async def test_a_purge_finds_what_another_name_of_the_model_was_asked_for(
    connect: Connect,
) -> None:
    """They share their entries, so who purges one name would still get the other's answers."""
    peer = await connect()
    listed = report(**{MODEL: DIGEST, "its other name": DIGEST, "another": "another digest"})
    peer.say(Reported(listed), put(), Purge(1, "another"), Purge(2, "its other name"), Get(3, KEY))
    told = [await peer.hear() for _ in range(3)]
    assert [(each.id, each.entries) for each in told if isinstance(each, Purged)] == [
        (1, 0),
        (2, 1),
    ]
    assert told[-1] == Miss(3)


def test_another_shard_has_another_generation(clock: HandClock) -> None:
    shards = [ShardServer(SECRET, SETTINGS, clock) for _ in range(2)]
    assert shards[0].holdings.generation != shards[1].holdings.generation


async def test_who_does_not_read_is_not_read_from(connect: Connect, server: ShardServer) -> None:
    peer = await connect()
    large = bytes(512 << 10)
    peer.say(Reported(report()), put(packed=large))
    peer.say(*(Get(number, KEY) for number in range(1, 101)))
    (connection,) = server._connections
    await until(lambda: connection._is_paused)
    assert connection._transport.get_write_buffer_size() < 4 << 20
    assert connection._waiting
    for number in range(1, 101):
        assert await peer.hear() == Hit(number, large)


async def test_a_subscriber_that_does_not_read_is_cut_off(
    connect: Connect, server: ShardServer
) -> None:
    peer, replica = await connect(), await connect()
    replica.say(Reported(report()), put(packed=bytes(512 << 10)), Renew(1))
    await replica.hear()
    peer.say(Subscribe(1), *(Get(number, KEY) for number in range(2, 101)))
    await until(lambda: server.subscribers == 1)
    await until(lambda: any(connection._is_paused for connection in server._connections))
    replica.say(Reported(report(**{MODEL: "new"})))
    await until(lambda: server.subscribers == 0)
    while await peer.hear() is not None:
        pass


async def test_news_to_who_is_being_cut_off_is_lost(connect: Connect, server: ShardServer) -> None:
    peer = await connect()
    peer.say(Subscribe(1))
    await peer.hear()
    (connection,) = server._connections
    connection.drop()
    server.publish()
    assert await peer.hear() is None


async def test_stops_with_connections_open(clock: HandClock) -> None:
    async with shard(SETTINGS, clock) as (_, (host, port, _)):
        peer = Peer(*await asyncio.open_connection(host, port))
        peer.say(HELLO)
        assert await peer.hear() == Welcome(VERSION)
    assert await peer.hear() is None
    peer.close()


async def test_a_connection_made_while_it_stops_is_cut(clock: HandClock) -> None:
    async with shard(SETTINGS, clock) as (_, (host, port, _)):
        stopped = ShardServer(SECRET, SETTINGS, clock)
        await stopped.start()
        await stopped.stop()
        late = module.Connection(stopped)
        await asyncio.get_running_loop().create_connection(lambda: late, host, port)
        await late.gone
    assert not stopped._connections


async def test_starts_once(clock: HandClock) -> None:
    server = ShardServer(SECRET, SETTINGS, clock)
    places = await asyncio.gather(*(server.start() for _ in range(3)))
    assert len(set(places)) == 1
    await server.stop()


async def test_stops_without_having_started() -> None:
    await ShardServer(SECRET, SETTINGS, monotonic).stop()


async def test_who_asked_for_a_confirmation_and_left_is_not_told(
    connect: Connect, server: ShardServer
) -> None:
    subscriber, peer = await connect(), await connect()
    subscriber.say(Subscribe(1))
    await subscriber.hear()
    peer.say(Reported(report()), Confirm(2))
    told = await subscriber.hear()
    assert isinstance(told, Viewed)
    peer.close()
    await until(lambda: len(server._connections) == 1)
    subscriber.say(Taken(told.change), Confirm(3))
    assert await subscriber.hear() == Confirmed(3)


async def test_an_answer_asked_for_before_a_purge_is_refused(
    connect: Connect, server: ShardServer
) -> None:
    peer, generation = await connect(), server.holdings.generation
    late, new = (replace(put(), generation=generation + n) for n in (0, 1))
    peer.say(Reported(report()), late, Get(1, KEY), Purge(2), late, Get(3, KEY), new, Get(4, KEY))
    answers = [await peer.hear() for _ in range(4)]
    assert answers[::2] == [Hit(1, b"packed"), Miss(3)]
    assert answers[3] == Hit(4, b"packed")
    assert server.holdings.stats(1, 0).refused == {"purged": 1}


async def test_counts_what_each_tenant_holds(connect: Connect) -> None:
    peer = await connect()
    peer.say(Reported(report()), replace(put(), tenant="a"), replace(put(b"x" * 16), tenant="b"))
    peer.say(replace(put(b"y" * 16), tenant="b"), Purge(1, tenant="a"), Ask(2))
    size = len(KEY) + len(b"packed") + OVERHEAD_BYTES
    assert await peer.hear() == Purged(1, 1, size)
    stats = await peer.hear()
    assert isinstance(stats, Stats)
    assert stats.tenants == {"b": (2, 2 * size)}
