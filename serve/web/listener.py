"""A port of one's own for an application that Serve doesn't serve."""

import asyncio
import logging
import socket

import uvicorn
from starlette.types import ASGIApp

log = logging.getLogger("rayllama.admin")

_BACKLOG = 128
_AGAIN_S = 1.0


async def listen(app: ASGIApp, host: str, port: int) -> None:
    """Serve an application until cancelled, from the moment that the port is free."""
    config = uvicorn.Config(
        app, log_config=None, access_log=False, lifespan="off", server_header=False
    )
    server = uvicorn.Server(config)
    bound = await _bound(host, port)
    serving = asyncio.get_running_loop().create_task(server.serve([bound]))
    try:
        await asyncio.shield(serving)
    finally:
        server.should_exit = server.force_exit = True
        await asyncio.wait([serving])
        bound.close()


async def _bound(host: str, port: int) -> socket.socket:
    """A listening socket. While somebody else has the port, that is said once, and tried again."""
    is_said = False
    while True:
        try:
            return socket.create_server(
                (host, port),
                family=socket.AF_INET6 if ":" in host else socket.AF_INET,
                backlog=_BACKLOG,
            )
        except OSError as fault:
            if not is_said:
                log.warning("admin.port: %s:%d: %s; trying again", host, port, fault)
            is_said = True
        await asyncio.sleep(_AGAIN_S)
