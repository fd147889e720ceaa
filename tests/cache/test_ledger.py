"""What requests come to: counted in ingresses, added up in the shard, over real sockets."""

from time import monotonic

from serve.cache.bookkeeper import Bookkeeper
from serve.cache.client import ShardClient
from serve.cache.ledger import OTHER, Ledger, by, summed
from serve.cache.protocol import MAX_ROWS, Row
from tests.cache.world import MODEL, at, shard, until

NEAR, COLD = ("hit", "near"), ("miss", "cold")


def test_unlisted_models_and_strangers_share_a_row() -> None:
    ledger = Ledger(lambda model: model == MODEL)
    ledger.add(NEAR, MODEL, "t", 3, 5)
    for number in range(10):
        ledger.add(COLD, f"made up {number}", "", 0, 0)
    assert ledger.drain() == [
        Row(MODEL, "t", {"hit": {"near": 1}}, 3, 5),
        Row(OTHER, OTHER, {"miss": {"cold": 10}}),
    ]
    assert ledger.drain() == []


def test_rows_are_bounded_and_lose_no_count() -> None:
    ledger = Ledger()
    for number in range(2 * MAX_ROWS):
        ledger.add(NEAR, f"m{number}", "t", 1, 1)
    rows = ledger.rows()
    assert len(rows) == MAX_ROWS + 1
    assert rows[-1] == Row(OTHER, OTHER, {"hit": {"near": MAX_ROWS}}, MAX_ROWS, MAX_ROWS)
    assert summed(rows).answers == {"hit": {"near": 2 * MAX_ROWS}}


def test_rows_are_added_up_by_name() -> None:
    rows = [
        Row("b", "t", {"hit": {"near": 1}}, 1, 10),
        Row("a", "t", {"hit": {"near": 2, "shared": 1}}, 2, 20),
        Row("a", "u", {"miss": {"cold": 4}}, 0, 0),
    ]
    models = by(lambda row: row.model, rows)
    assert list(models) == ["a", "b"]
    assert models["a"].answers == {"hit": {"near": 2, "shared": 1}, "miss": {"cold": 4}}
    assert by(lambda row: row.tenant, rows)["t"].gpu_ns == 30
    assert summed([]) == Row("", "", {})


async def test_ingresses_are_added_up_and_nothing_is_told_twice() -> None:
    async with (
        shard() as (server, address),
        ShardClient(at(address), clock=monotonic, lease_s=60) as one,
        ShardClient(at(address), clock=monotonic, lease_s=60) as other,
    ):
        await until(lambda: one.is_connected and other.is_connected)
        for client in (one, other):
            ledger = Ledger()
            books = Bookkeeper(ledger, client.count)
            ledger.add(NEAR, MODEL, "t", 3, 5)
            books.report()
            books.report()
            await client.stats()  # sent after it on the same connection
        assert server.stats().counted == [Row(MODEL, "t", {"hit": {"near": 2}}, 6, 10)]


async def test_what_could_not_be_told_is_told_later() -> None:
    ledger = Ledger()
    heard: list[list[Row]] = []
    is_away = True

    def tell(rows: list[Row]) -> bool:
        if not is_away:
            heard.append(rows)
        return not is_away

    books = Bookkeeper(ledger, tell, period_s=0.001)
    ledger.add(NEAR, MODEL, "t", 1, 1)
    books.report()
    ledger.add(NEAR, MODEL, "t", 1, 1)
    is_away = False
    books.start()
    await until(lambda: bool(heard))
    ledger.add(COLD, MODEL, "t", 0, 0)
    await books.stop()
    assert summed(row for rows in heard for row in rows) == Row(
        "", "", {"hit": {"near": 2}, "miss": {"cold": 1}}, 2, 2
    )
