"""All pools as one: a call goes to the pool of its model, with a lease, to the replica it names.

What computes something needs a lease (`serve.fleet.asking`); what doesn't (lists, shows) never
waits for one. Until the first byte of an answer, a call that reached no engine is placed anew, on
another replica if there is one; after it, never.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from types import TracebackType
from typing import Protocol, Self

import msgspec
from msgspec import structs

from serve.errors import EngineDied, EngineNotReady, NotFound
from serve.fleet.asking import Asking, Lease, Need
from serve.fleet.pools import Pools
from serve.ports import COMPUTED, Call, Frame, Head, Member
from serve.wire.errors import native_body
from serve.wire.names import short

_ATTEMPTS = 3
_JSON = "application/json; charset=utf-8"


class _Named(msgspec.Struct):
    model: str


_named = msgspec.json.Decoder(_Named).decode


class Deliver(Protocol):
    """Carries calls to one pool's replicas: to the one that `Call.replica` names, if it does."""

    def stream(self, call: Call) -> AsyncGenerator[Frame, None]:
        """As `serve.ports.Inference`. Raises `EngineNotReady` if that replica isn't there."""
        ...

    def members(self) -> Sequence[Member]:
        """The replicas that run."""
        ...


class Pool:
    """One pool: its way there, and its leases. `queue_timeout_s`: how long a call may wait."""

    def __init__(self, deliver: Deliver, asking: Asking, queue_timeout_s: float) -> None:
        self.deliver = deliver
        self.asking = asking
        self.queue_timeout_s = queue_timeout_s


class PooledFleet:
    """`serve.ports.Fleet`. Owns the connections to the schedulers while it is entered."""

    def __init__(self, pools: Pools, each: Mapping[str, Pool]) -> None:
        self._pools = pools
        self._each = each
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        for pool in self._each.values():
            await self._stack.enter_async_context(pool.asking)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._stack.aclose()

    def asking(self, pool: str) -> Asking:
        """That pool's leases."""
        return self._each[pool].asking

    def pool_of(self, model: str) -> str | None:
        """See `serve.ports.Fleet`."""
        return self._pools.of(model)

    @property
    def may_be_empty(self) -> bool:
        """See `serve.ports.Fleet`."""
        return all(shape.min_replicas == 0 for shape in self._pools.shapes.values())

    def members(self) -> Sequence[Member]:
        """See `serve.ports.Fleet`."""
        found = [member for pool in self._each.values() for member in pool.deliver.members()]
        return sorted(found, key=lambda member: member.name)

    async def stream(self, call: Call) -> AsyncGenerator[Frame, None]:
        """See `serve.ports.Fleet`."""
        if call.replica:
            frames = self._home(call.replica).deliver.stream(call)
        elif call.path not in COMPUTED:
            frames = self._any().deliver.stream(call)
        else:
            name = self._pools.of(call.model)
            frames = _unknown(call) if name is None else _placed(self._each[name], call)
        async with aclosing(frames):
            async for frame in frames:
                yield frame

    def _home(self, replica: str) -> Pool:
        for pool in self._each.values():
            if any(member.name == replica for member in pool.deliver.members()):
                return pool
        raise EngineNotReady("that replica is gone")

    def _any(self) -> Pool:
        """The first that has replicas; else the first, whose first one is then waited for."""
        for pool in self._each.values():
            if pool.deliver.members():
                return pool
        return next(iter(self._each.values()))


async def _unknown(call: Call) -> AsyncGenerator[Frame, None]:
    """A model that no pool serves, under the name that the client gave it."""
    try:
        name = _named(call.body).model
    except msgspec.DecodeError:  # what JSON there is was understood before, but Go's may be odder
        name = short(call.model)
    error = NotFound(f"model '{name}' not found")
    yield Head(error.status, _JSON)
    yield native_body(error)


async def _placed(pool: Pool, call: Call) -> AsyncGenerator[Frame, None]:
    wait_s = min(call.deadline_s or pool.queue_timeout_s, pool.queue_timeout_s)
    need = Need(call.model, call.num_ctx, wait_s, call.tenant, call.affinity)
    for attempt in range(_ATTEMPTS):
        async with pool.asking.lease(need) as lease:
            sent = structs.replace(call, replica=lease.replica)
            async with aclosing(pool.deliver.stream(sent)) as frames:
                head = await _first(frames, lease, is_last=attempt == _ATTEMPTS - 1)
                if head is None:
                    continue
                try:
                    yield head
                    async for frame in frames:
                        yield frame
                except GeneratorExit:
                    lease.outcome = "left"
                    raise
                return


async def _first(
    frames: AsyncGenerator[Frame, None], lease: Lease, *, is_last: bool
) -> Frame | None:
    """The head, with what is known of the wait for it; None if another replica is to be asked."""
    try:
        head = await anext(frames)
    except (EngineDied, EngineNotReady):
        lease.outcome = "unreached"
        if is_last:
            raise
        return None
    except StopAsyncIteration:
        raise EngineDied from None
    if not isinstance(head, Head):
        return head
    if head.is_unreached:
        lease.outcome = "unreached"
        if not is_last:
            return None
    return structs.replace(head, state=lease.state, position=lease.position, replica=lease.replica)
