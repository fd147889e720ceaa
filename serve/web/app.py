"""The ASGI applications, put together: the ingress's, and the admin API's."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial

from starlette.routing import Router

from serve.web.admin import AdminGate, AdminServices
from serve.web.gateway import Gateway
from serve.web.routes import Fallback, admin_table, other_verbs, table
from serve.web.services import Services

Lifespan = Callable[[object], AbstractAsyncContextManager[None]]


def create_app(services: Services, lifespan: Lifespan | None = None) -> Gateway:
    """The application over its services; `lifespan` runs around its serving."""
    routes = table(services)
    router = Router(routes, redirect_slashes=False, default=Fallback(routes), lifespan=lifespan)
    return Gateway(services, router, partial(other_verbs, routes))


def create_admin(services: AdminServices) -> AdminGate:
    """The admin API over its services."""
    routes = admin_table(services)
    return AdminGate(services, Router(routes, redirect_slashes=False, default=Fallback(routes)))
