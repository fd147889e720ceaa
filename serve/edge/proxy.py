"""One node's proxy as its feeder sees it: what it holds, and under which lease.

1. What is told on a connection is told to the process that accepted it. A process that isn't the
   one before is a proxy that was started or reloaded: its maps are empty, whatever was given to its
   forerunner, which can't be reached any more and may go on answering until its lease ends.
2. A lease is noted before it is sent, and forgotten only when its end was confirmed or has come. So
   `leased_until` never says too little.
3. Where it isn't known what was done, the process counts as a new one: its maps are cleared.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Final

from serve.edge.admin_socket import Admin, ProxyAway, add, admin, clear, remove, set_number
from serve.edge.launcher import State
from serve.edge.rules import LEASE, LEASE_MS, TABLE
from serve.edge.shelf import Entry
from serve.ports import Clock

log = logging.getLogger("rayllama.edge")

_MARGIN_S: Final = 0.05
"""Taken off every lease: the proxy reads its clock once for all that it does in a turn."""


class Proxy:
    """The proxy that `look` tells of. `clock`: seconds, monotonic; `now`: since the epoch."""

    def __init__(self, look: Callable[[], State | None], clock: Clock, now: Clock) -> None:
        self._look = look
        self._clock = clock
        self._now = now
        self._pid = 0
        self._leases: dict[int, float] = {}
        self._leasing = asyncio.Lock()
        self.placed: dict[str, Entry] = {}
        """What the proxy may hold; what it was, if it was replaced."""
        self.restarts = 0
        self.reason = ""
        """Why there is no edge, as far as is known."""

    def state(self) -> State | None:
        """What there is to feed, or None."""
        state = self._look()
        reason = "HAProxy was not started by rayllama-haproxy" if state is None else state.reason
        if reason != self.reason:
            self.reason = reason
            if reason:
                log.warning("no edge: %s", reason)
        return None if reason else state

    @property
    def leased_until(self) -> float:
        """When the last lease ends that anybody may go on under, by the clock."""
        return max(self._leases.values(), default=float("-inf"))

    async def bring(self, state: State, wanted: dict[str, Entry], at_most: int) -> bool:
        """Have it hold what is wanted, as far as `at_most` new entries go. Returns if that is all.

        What isn't wanted is gone when this returns. Raises `ProxyAway`.
        """
        async with admin(state.socket) as connection:
            await self._recognise(connection, state)
            gone = {key for key, entry in self.placed.items() if wanted.get(key) is not entry}
            new = [entry for key, entry in wanted.items() if key not in self.placed or key in gone]
            await self._do(connection, [remove(state.answers, key) for key in gone])
            for key in gone:
                del self.placed[key]
            some = new[:at_most]
            self.placed.update((entry.key, entry) for entry in some)
            await self._do(connection, [add(state.answers, one.key, one.value) for one in some])
            return len(some) == len(new)

    async def lease(self, state: State, left_s: float, may: Callable[[], bool]) -> bool:
        """Let it answer for so long, if it `may` still when it is told. False if it wasn't told.

        Raises `ProxyAway`.
        """
        left_s = min(left_s, LEASE_MS / 1000) - _MARGIN_S
        if left_s <= 0:
            return False
        asked_at = self._clock()
        async with self._leasing, admin(state.socket) as connection:
            left_s -= self._clock() - asked_at
            if connection.pid != self._pid or left_s <= 0 or not may():
                return False
            self._leases = {pid: until for pid, until in self._leases.items() if until > asked_at}
            until = self._clock() + left_s
            self._leases[self._pid] = max(until, self._leases.get(self._pid, until))
            ends_ms = int((self._now() + left_s) * 1000)
            await self._do(connection, [set_number(state.lease, LEASE, ends_ms)])
            return True

    async def silence(self) -> None:
        """Returns when no proxy answers any more what it was given, told or by its lease's end."""
        async with self._leasing:
            state = self._look()
            if state is not None and self._clock() < self.leased_until:
                try:
                    async with admin(state.socket) as connection:
                        refused = await connection.do([set_number(state.lease, LEASE, 0)])
                        if not refused:
                            self._leases.pop(connection.pid, None)
                except ProxyAway as away:
                    log.info("%s: waiting for its lease to end", away)
            await asyncio.sleep(max(0.0, self.leased_until - self._clock()))

    async def counts(self, state: State) -> tuple[int, dict[str, int]]:
        """How often each key was found since this process, of that number, has known it.

        Raises `ProxyAway`.
        """
        async with admin(state.socket) as connection:
            return connection.pid, await connection.counts(TABLE)

    async def _recognise(self, connection: Admin, state: State) -> None:
        """Is it the one that was spoken to before?"""
        if connection.pid == self._pid:
            return
        self.placed.clear()
        self._pid = 0
        await self._do(connection, [clear(state.answers)])
        self._pid = connection.pid
        self.restarts += 1

    async def _do(self, connection: Admin, commands: Sequence[bytes]) -> None:
        pid, self._pid = self._pid, 0  # whatever becomes of it: see 3
        refused = await connection.do(commands)
        if refused:
            raise ProxyAway(f"HAProxy refuses: {refused[0][:100]}")
        self._pid = pid
