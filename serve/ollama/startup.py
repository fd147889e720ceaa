"""How an engine becomes ready, step by step, each with its limit and a failure that tells why."""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

from serve.errors import EngineError, EngineNotReady
from serve.ollama.client import EngineClient
from serve.ollama.environment import engine_command, engine_environment, give_identity
from serve.ollama.process import EngineProcess
from serve.ollama.reaper import Mark
from serve.settings import InferenceSettings, Settings

_POLL_S = 0.05
_log = logging.getLogger(__name__)
Prepare = Callable[[EngineClient], Awaitable[None]]
"""Fetches models; as long as bytes come. Raises `EngineError` if one that must come doesn't."""


def free_port() -> int:
    """A port of the loopback interface that nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def spawn(settings: Settings, port: int, mark: Mark, directory: Path) -> EngineProcess:
    """Start an engine on that loopback port, with its log and its home in `directory`.

    Raises `ConfigError` when its executable isn't there.
    """
    home = directory / "home"
    home.mkdir(exist_ok=True)
    environment = engine_environment(settings, port=port, home=home, mark=str(mark))
    give_identity(settings.inference.identity, home)
    command = engine_command(settings, port)
    models = environment["OLLAMA_MODELS"]
    _log.info("starting %s on port %d, models in %s", command[0], port, models)
    return EngineProcess.spawn(command, environment, directory)


async def until_ready(
    client: EngineClient,
    process: EngineProcess | None,
    settings: InferenceSettings,
    prepare: Prepare | None = None,
) -> str:
    """Wait for the engine's first answer, let `prepare` fetch what it lacks, then load the models;
    its version.

    Raises `EngineNotReady` with what happened and the last lines of the engine's log.
    `process` is None for an engine that isn't ours.
    """
    version = await _first_version(client, process, settings.start_timeout_s)
    if prepare is not None:
        try:
            await prepare(client)
        except EngineError as exc:
            raise EngineNotReady(story(str(exc), process)) from exc
    for model in settings.models:
        await _load(client, process, model, settings)
    return version


async def _first_version(
    client: EngineClient, process: EngineProcess | None, limit_s: float
) -> str:
    """A TCP connection is not enough: Ollama listens seconds before it answers."""
    reason = "no answer"
    try:
        async with asyncio.timeout(limit_s):
            while process is None or not process.exited.done():
                try:
                    return await client.version()
                except EngineError as exc:
                    reason = str(exc)
                await (asyncio.sleep(_POLL_S) if process is None else process.wait(_POLL_S))
    except TimeoutError:
        text = f"the engine was not ready after {limit_s:g} s: {reason}"
    else:
        text = f"the engine ended with status {await process.wait()} before it was ready"
    raise EngineNotReady(story(text, process))


async def _load(
    client: EngineClient, process: EngineProcess | None, model: str, settings: InferenceSettings
) -> None:
    """By a request of our own, which nobody's leaving can abort."""
    limit_s = settings.load_timeout_s
    try:
        async with asyncio.timeout(limit_s):
            await client.load(model, settings.keep_alive)
    except TimeoutError:
        text = f"model {model!r} was not loaded after {limit_s:g} s"
        raise EngineNotReady(story(text, process)) from None
    except EngineError as exc:
        text = f"model {model!r} could not be loaded: {exc}"
        raise EngineNotReady(story(text, process)) from exc


def story(text: str, process: EngineProcess | None) -> str:
    """What happened, and what the engine said last."""
    if process is None:
        return text
    return f"{text}. The last lines of its log:\n{process.log.tail()}"
