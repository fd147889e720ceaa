"""So many at work, so many waiting, the rest refused."""

import asyncio

import pytest

from serve.errors import SERVER_BUSY, Overloaded
from serve.ollama.gate import Gate
from tests.ollama.engines import until


class Call:
    """One call that stays in the gate until it is told to go."""

    def __init__(self, gate: Gate, order: list[str], name: str) -> None:
        self.go = asyncio.Event()
        self._gate, self._order, self._name = gate, order, name
        self.task = asyncio.ensure_future(self._run())

    async def _run(self) -> None:
        async with self._gate:
            self._order.append(self._name)
            await self.go.wait()


async def test_first_come_first_served_and_the_rest_refused() -> None:
    gate, order = Gate(slots=2, max_queue=2), list[str]()
    calls = {name: Call(gate, order, name) for name in "abcd"}
    await until(lambda: gate.waiting == 2)
    assert order == ["a", "b"]
    with pytest.raises(Overloaded, match=SERVER_BUSY):
        async with gate:
            pass
    calls["b"].go.set()
    await until(lambda: len(order) == 3)
    assert order == ["a", "b", "c"]
    calls["d"].task.cancel()  # who waits may leave
    await asyncio.wait([calls["d"].task])
    assert gate.waiting == 0
    for call in calls.values():
        call.go.set()
    await asyncio.wait([call.task for call in calls.values()])
    assert order == ["a", "b", "c"]
    async with asyncio.timeout(5), gate:
        await asyncio.sleep(0)


async def test_no_queue_at_all() -> None:
    gate = Gate(slots=1, max_queue=0)
    async with gate:
        with pytest.raises(Overloaded):
            await gate.__aenter__()
    async with gate:
        pass
