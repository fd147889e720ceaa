"""The ingress on a real socket, over a pool that says what only faults make a real one say."""

import asyncio
import threading
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import uvicorn

from serve.ports import Frame
from serve.settings import AuthSettings
from tests.stack import until
from tests.web.front import Front


@contextmanager
def served(script: Sequence[Frame], auth: AuthSettings | None = None) -> Iterator[str]:
    """The URL of an ingress whose pool answers every call by this script."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    def run(coroutine: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, loop).result(30)

    front = Front(list(script)) if auth is None else Front(list(script), auth=auth)
    config = uvicorn.Config(front.app, "127.0.0.1", 0, log_config=None, lifespan="off")
    server = uvicorn.Server(config)
    serving = asyncio.run_coroutine_threadsafe(server._serve(), loop)
    try:
        run(until(lambda: server.started))
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = server.force_exit = True
        serving.result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
