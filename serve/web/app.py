"""The ingress's ASGI application, put together."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial

from starlette.routing import Router

from serve.web.gateway import Gateway
from serve.web.routes import Fallback, table, verbs
from serve.web.services import Services

Lifespan = Callable[[object], AbstractAsyncContextManager[None]]


def create_app(services: Services, lifespan: Lifespan | None = None) -> Gateway:
    """The application over its services; `lifespan` runs around its serving."""
    routes = table(services)
    router = Router(routes, redirect_slashes=False, default=Fallback(routes), lifespan=lifespan)
    return Gateway(services, router, partial(verbs, routes))
