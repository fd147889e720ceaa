"""Rayllama without its schedulers, on the router that Serve has by default: to compare with."""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Self

from ray import serve as ray_serve
from ray.serve.handle import DeploymentHandle

from deployments.handles import PoolHandle
from deployments.ingress import Ingress
from serve.app import compose
from serve.edge.scout import Edges
from serve.ports import Call, Frame, Member
from serve.settings import Settings

DEFAULT = "ray.serve._private.request_router:PowerOfTwoChoicesRequestRouter"


class Unplaced:
    """`serve.ports.Fleet` that leaves everything to the handle."""

    may_be_empty = False

    def __init__(self, handle: PoolHandle) -> None:
        self._handle = handle

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        return None

    def members(self) -> Sequence[Member]:
        """None by name."""
        return []

    def pool_of(self, _model: str) -> str | None:
        """There is one."""
        return ""

    async def stream(self, call: Call) -> AsyncGenerator[Frame, None]:
        """Wherever Serve sends it."""
        async with aclosing(self._handle.stream(call)) as frames:
            async for frame in frames:
                yield frame


class UnplacedIngress(Ingress):
    """The front, without leases."""

    def __init__(
        self,
        settings: Settings,
        inference: dict[str, DeploymentHandle],
        edges: Edges | None = None,
    ) -> None:
        super().__init__(settings, inference, edges)
        self._fleet = Unplaced(self._handles[""])  # type: ignore[assignment]

    def _follow(self, _name: str) -> Callable[[], None]:
        return lambda: None


def build(args: Settings) -> ray_serve.Application:
    """As `serve.app.build`."""
    return compose(args, UnplacedIngress, DEFAULT)
