"""The engine's command line, its start and its stop.

SIGTERM and SIGINT end it as they end `ollama serve`: connections are cut, runners killed, status 0.
"""

import argparse
import asyncio
import contextlib
import json
import logging
import signal
import sys
from collections.abc import Generator

import uvicorn
from pydantic import ValidationError

from serve.embedded.config import EngineConfig, engine_config
from serve.embedded.engine import Engine
from serve.embedded.scheduler import Scheduler
from serve.embedded.server import Server
from serve.embedded.shelf import Shelf
from serve.embedded.store import Store
from serve.errors import ConfigError
from serve.settings import EmbeddedSettings, environment, explain, ollama_variables

_log = logging.getLogger(__name__)
_BACKLOG = 4096


def run(arguments: list[str]) -> int:
    """Serves until it is told to stop; 0, or 2 for a configuration that can't be served."""
    parser = argparse.ArgumentParser(prog="python -m serve.embedded")
    parser.add_argument("--port", type=int, required=True, help="port on 127.0.0.1")
    parser.add_argument("--config", default="{}", help="the settings' section `embedded` as JSON")
    parsed = parser.parse_args(arguments)
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    try:
        config = _config(parsed.config)
        store = Store(config.store)
        store.check()
        shelf = Shelf(config, store)
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    asyncio.run(_serve(parsed.port, config, shelf))
    return 0


def _config(text: str) -> EngineConfig:
    try:
        settings = EmbeddedSettings.model_validate(json.loads(text))
    except ValidationError as error:
        raise ConfigError(explain(error)) from None
    except ValueError as error:
        raise ConfigError(f"--config is not JSON: {error}") from None
    return engine_config(settings, ollama_variables(), environment().cache_home)


async def _serve(port: int, config: EngineConfig, shelf: Shelf) -> None:
    scheduler = Scheduler(
        max_loaded=config.max_loaded_models,
        max_queue=config.max_queue,
        keep_alive_s=config.keep_alive_s,
    )
    server = _Uvicorn(_uvicorn_config(Server(Engine(config, shelf, scheduler)), port))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, server.stop)
    shelf.open()
    async with asyncio.TaskGroup() as tasks:
        runners = tasks.create_task(scheduler.run())
        try:
            await server.serve()
        finally:
            runners.cancel()
            await shelf.close()


def _uvicorn_config(app: Server, port: int) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        host="127.0.0.1",
        port=port,
        http="httptools",
        loop="none",
        lifespan="off",
        ws="none",
        access_log=False,
        log_config=None,
        log_level="warning",
        server_header=False,
        proxy_headers=False,
        backlog=_BACKLOG,
    )


class _Uvicorn(uvicorn.Server):
    """Uvicorn that leaves signals to us: it would wait for streams, and end with the signal."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Captures none."""
        yield

    def stop(self) -> None:
        """Cuts every connection and stops serving."""
        for connection in list(self.server_state.connections):
            if connection.transport is not None:
                connection.transport.abort()
        self.should_exit = self.force_exit = True
