"""What piles up between a reader and a consumer."""

import asyncio
from typing import TYPE_CHECKING

import pytest

from serve.errors import EngineDied
from serve.ollama.buffer import Buffer
from serve.ports import Head
from tests.ollama.engines import until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

HEAD = Head(200, "application/x-ndjson")


class Script:
    """A reader that a test leads step by step."""

    def __init__(self, buffer: Buffer) -> None:
        self._buffer = buffer
        self._steps: asyncio.Queue[Callable[[], Awaitable[None]] | None] = asyncio.Queue()
        self.was_cancelled = False
        self.done = 0
        buffer.fill(self._run())

    def put(self, *parts: bytes) -> None:
        for data in parts:
            self._steps.put_nowait(lambda data=data: self._buffer.put(data))  # type: ignore[misc]

    def end(self) -> None:
        self._steps.put_nowait(None)

    async def _run(self) -> None:
        self._buffer.begin(HEAD)
        try:
            while (step := await self._steps.get()) is not None:
                await step()
                self.done += 1
        except asyncio.CancelledError:
            self.was_cancelled = True
            raise


async def test_lines_leave_whole_and_as_they_piled_up() -> None:
    async with Buffer(1000) as buffer:
        script = Script(buffer)
        script.put(b"one\n")
        assert await buffer.head() == HEAD
        assert await buffer.take(by_lines=True) == b"one\n"
        script.put(b"two\nth", b"r", b"ee\nfour\nfi")
        await until(lambda: script.done == 4)
        assert await buffer.take(by_lines=True) == b"two\nthree\nfour\n"
        script.put(b"ve\n")
        assert await buffer.take(by_lines=True) == b"five\n"
        script.end()
        assert await buffer.take(by_lines=True) == b""
        assert await buffer.take(by_lines=True) == b""


async def test_half_a_line_waits_for_its_other_half() -> None:
    async with Buffer(1000) as buffer:
        script = Script(buffer)
        taking = asyncio.ensure_future(buffer.take(by_lines=True))
        script.put(b"ha", b"lf")
        await until(lambda: script.done == 2)
        assert not taking.done()
        script.put(b" a line\n")
        assert await taking == b"half a line\n"


async def test_a_last_line_without_its_newline_is_passed_on() -> None:
    async with Buffer(1000) as buffer:
        script = Script(buffer)
        script.put(b"one\nrest")
        script.end()
        await until(lambda: script.done == 1)
        assert await buffer.take(by_lines=True) == b"one\n"
        assert await buffer.take(by_lines=True) == b"rest"
        assert await buffer.take(by_lines=True) == b""


async def test_bytes_that_are_no_lines_leave_as_they_come() -> None:
    async with Buffer(1000) as buffer:
        script = Script(buffer)
        script.put(b"ab", b"cd")
        await until(lambda: script.done == 2)
        assert await buffer.take(by_lines=False) == b"abcd"


async def test_the_reader_waits_only_at_the_bound() -> None:
    async with Buffer(10) as buffer:
        script = Script(buffer)
        script.put(b"x" * 9)
        script.put(b"y" * 9)
        script.put(b"z\n")
        await until(lambda: script.done == 1)
        assert await buffer.take(by_lines=False) == b"x" * 9 + b"y" * 9
        await until(lambda: script.done == 3)
        assert await buffer.take(by_lines=False) == b"z\n"


async def test_a_line_over_the_bound_passes() -> None:
    async with Buffer(10) as buffer:
        script = Script(buffer)
        script.put(*[b"x" * 7] * 100, b"\n")
        assert await buffer.take(by_lines=True) == b"x" * 700 + b"\n"


async def test_a_failure_comes_after_the_bytes_before_it() -> None:
    async def fails() -> None:
        buffer.begin(HEAD)
        await buffer.put(b"one\ntw")
        raise EngineDied

    async with Buffer(1000) as buffer:
        buffer.fill(fails())
        assert await buffer.head() == HEAD
        assert await buffer.take(by_lines=True) == b"one\n"
        with pytest.raises(EngineDied):
            await buffer.take(by_lines=True)


async def test_a_failure_before_the_first_byte_is_the_answer() -> None:
    async def fails() -> None:
        buffer.begin(HEAD)
        raise EngineDied

    async with Buffer(1000) as buffer:
        buffer.fill(fails())
        with pytest.raises(EngineDied):
            await buffer.head()


async def test_an_end_without_a_beginning_is_a_death() -> None:
    async def ends() -> None:
        return

    async with Buffer(1000) as buffer:
        buffer.fill(ends())
        with pytest.raises(EngineDied):
            await buffer.head()


async def test_an_empty_answer_has_a_head() -> None:
    async with Buffer(1000) as buffer:
        script = Script(buffer)
        script.end()
        assert await buffer.head() == HEAD
        assert await buffer.take(by_lines=False) == b""


async def test_leaving_ends_the_reader() -> None:
    async with Buffer(10) as buffer:
        script = Script(buffer)
        script.put(b"x" * 20)
        await buffer.head()
    assert script.was_cancelled


async def test_a_failure_that_nobody_asks_for_is_no_news() -> None:
    async def fails() -> None:
        raise EngineDied

    async with Buffer(1000) as buffer:
        buffer.fill(fails())
        await until(lambda: buffer._some.is_set())
    async with Buffer(1000):
        pass
