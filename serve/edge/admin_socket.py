"""HAProxy's admin socket: entries added, removed and counted while it runs.

In prompt mode a connection takes one command after the other, and each answer ends with `> ` on a
line of its own (management.txt, 9.3). A map's entries are given as a payload (`<<`), in which the
rest of a line is the value, whatever it holds; an empty line ends it. So nothing can break out as
long as no key or value has a line's end or a NUL in it, which `add` refuses.

All commands of a connection go to the process that accepted it. After a reload that may be one that
only finishes what it had begun: who wants to speak to the proxy that answers now connects anew and
looks at `pid`.
"""

import asyncio
import re
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

_PROMPT = b"\n> "
_PAYLOAD_PROMPT = b"+ "
_AT_ONCE = 32
"""Commands on their way before their answers are read: neither side's buffer ever fills."""
_WITHIN_S = 5.0
_LIMIT_BYTES = 64 << 20
_BREAKING = re.compile(rb"[\r\n\0]")
_KEY = re.compile(r"[0-9A-F]{64}")
_COUNT = re.compile(rb"key=([0-9A-F]{64}) .*?http_req_cnt=(\d+)")
_PID = re.compile(rb"^Pid: (\d+)$", re.MULTILINE)


class ProxyAway(Exception):  # noqa: N818  (it says what is the matter)
    """HAProxy's admin socket doesn't answer, or not as it should."""


def add(file: str, key: str, value: bytes) -> bytes:
    """The command that adds an entry. Raises `ValueError` for what can't be one."""
    if _KEY.fullmatch(key) is None or _BREAKING.search(value) or not value:
        raise ValueError("neither a key nor a value may break out of its line")
    return b"add map %b <<\n%b %b\n\n" % (file.encode(), key.encode(), value)


def remove(file: str, key: str) -> bytes:
    """The command that removes an entry."""
    if _KEY.fullmatch(key) is None:
        raise ValueError("not a key")
    return b"del map %b %b\n" % (file.encode(), key.encode())


def set_number(file: str, name: str, number: int) -> bytes:
    """The command that sets a number which the map has already."""
    return b"set map %b %b %d\n" % (file.encode(), name.encode(), number)


def clear(file: str) -> bytes:
    """The command that empties a map."""
    return b"clear map %b\n" % file.encode()


class Admin:
    """One connection. `pid`: the process at its other end."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.pid = 0

    async def greet(self) -> None:
        """Switch prompts on, and ask who answers. Raises `ProxyAway`."""
        await self._exchange([b"prompt\n"])
        (said,) = await self._exchange([b"show info\n"])
        found = _PID.search(said)
        if found is None:
            raise ProxyAway("HAProxy doesn't say who it is")
        self.pid = int(found[1])

    async def do(self, commands: Sequence[bytes]) -> list[str]:
        """Have them done, in order. Returns what was said of those that failed.

        Raises `ProxyAway`: then nobody knows which were done.
        """
        refused: list[str] = []
        for start in range(0, len(commands), _AT_ONCE):
            for said in await self._exchange(commands[start : start + _AT_ONCE]):
                said = said.lstrip(_PAYLOAD_PROMPT).strip()
                if said:
                    refused.append(said.decode("latin-1"))
        return refused

    async def counts(self, table: str) -> dict[str, int]:
        """How often each key was found, since it was first. Raises `ProxyAway`."""
        (said,) = await self._exchange([b"show table %b\n" % table.encode()])
        return {key.decode(): int(count) for key, count in _COUNT.findall(said)}

    async def _exchange(self, commands: Sequence[bytes]) -> list[bytes]:
        try:
            async with asyncio.timeout(_WITHIN_S):
                self._writer.write(b"".join(commands))
                await self._writer.drain()
                said = [await self._reader.readuntil(_PROMPT) for _ in commands]
        except (OSError, TimeoutError, asyncio.IncompleteReadError) as fault:
            raise ProxyAway(f"HAProxy's admin socket: {type(fault).__name__}") from fault
        except asyncio.LimitOverrunError as fault:
            raise ProxyAway("HAProxy says more than can be meant") from fault
        return [one.removesuffix(_PROMPT) for one in said]

    def close(self) -> None:
        """At once, whatever is under way."""
        self._writer.transport.abort()


@asynccontextmanager
async def admin(path: str) -> AsyncGenerator[Admin, None]:
    """A connection to whoever listens there now. Raises `ProxyAway`."""
    try:
        async with asyncio.timeout(_WITHIN_S):
            reader, writer = await asyncio.open_unix_connection(path, limit=_LIMIT_BYTES)
    except (OSError, TimeoutError) as fault:
        raise ProxyAway(f"HAProxy's admin socket: {type(fault).__name__}") from fault
    connection = Admin(reader, writer)
    try:
        await connection.greet()
        yield connection
    finally:
        connection.close()
