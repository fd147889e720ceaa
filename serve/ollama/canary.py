"""The canary of one replica: asks its engine for a token when that has been quiet, and judges it.

When and how long is decided by `serve.ollama.vitals`. This is the task that looks at it, sends the
canary, and has an engine restarted that is wedged or has lost its GPU.

A canary changes nothing. It is asked of a model that is loaded, in the manner of its last call (a
runner is reloaded for others), not while a call may be loading one, and never with a `keep_alive`.
A model that will be unloaded when it has been idle is asked only while it is at work, since a
canary would prolong its life. It passes the gate like any call, if it can pass at once: if all
slots are taken by calls that get nothing, it goes past it, and waits behind them in the engine.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta

import msgspec
from ollama import ProcessResponse

from serve.errors import EngineDied, EngineError, EngineNotReady
from serve.ollama.client import EngineClient
from serve.ollama.gate import Gate
from serve.ollama.lately import Manner
from serve.ollama.supervisor import Supervisor
from serve.settings import InferenceSettings
from serve.wire.names import canonical

_log = logging.getLogger(__name__)
_FOREVER = timedelta(days=365)  # `keep_alive: -1` is centuries away
_LOOKS = 4  # within the shorter of the two limits
_LONGEST_LOOK_S = 5.0
_CANNOT = b"does not support generate"

Row = ProcessResponse.Model


class Canary:
    """Owns the task that looks and the canary that is out; `stop` ends both."""

    def __init__(self, supervisor: Supervisor, gate: Gate, inference: InferenceSettings) -> None:
        self._supervisor = supervisor
        self._gate = gate
        self._inference = inference
        self._vitals = supervisor.pulse.vitals
        self._lately = supervisor.pulse.lately
        self._clock = supervisor.pulse.clock
        self._look_s = min(
            inference.canary_after_s / _LOOKS, inference.canary_timeout_s / _LOOKS, _LONGEST_LOOK_S
        )
        self._embed: set[str] = set()  # models that only embed
        self._placed_at = self._clock()  # when it was last seen where the models are
        self._fallen_since: float | None = None
        self._has_warned = False
        self._task: asyncio.Task[None] | None = None
        self._out: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Look after the engine from now on."""
        if self._inference.require_gpu and not self._supervisor.has_gpu:
            _log.warning("require_gpu: the engine did not say that it found a GPU")
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """Look no more. Twice does no harm."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        await self._call_back()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._look_s)
            try:
                if self._supervisor.is_up:
                    await self._look()
                else:
                    await self._call_back()
            except (EngineError, TimeoutError) as error:
                _log.info("the engine could not be looked at: %s", error)
            except Exception:  # noqa: BLE001  (last resort: the engine must stay looked after)
                _log.exception("the canary failed")

    async def _look(self) -> None:
        now = self._clock()
        verdict = self._vitals.verdict(now)
        if verdict == "well":
            await self._call_back()
        elif verdict == "ask":
            await self._call_back()
            self._vitals.asked(now)
            self._out = asyncio.get_running_loop().create_task(self._ask())
            self._out.add_done_callback(_seen)
        elif verdict == "wedged":
            await self._call_back()
            quiet_s = self._vitals.quiet_s(now)
            text = f"the engine is wedged: no sign of life for {quiet_s:.0f} s"
            at_work = f"{self._vitals.at_work} calls at work"
            await self._supervisor.fail("wedged", f"{text}, {at_work}", quiet_s)
            return
        if self._supervisor.has_gpu and now - self._placed_at >= self._inference.canary_after_s:
            await self._look_at_places(now)

    async def _ask(self) -> None:
        """One canary, to its answer."""
        async with self._gate if self._gate.is_open else nullcontext():
            try:
                client = await self._supervisor.ready()
                chosen = self._choose((await client.loaded()).models)
                status = 404 if chosen is None else await self._probe(client, *chosen)
            except EngineNotReady:
                return  # unanswered
            except EngineDied:
                status = 500
        now = self._clock()
        if status == 200:
            self._vitals.beat(now)
        elif status == 500:
            _log.warning("the engine answered a canary with an error")
            self._vitals.failed(now)
        else:  # of what was asked, not of the engine: nothing to ask, a model that has gone, busy
            self._vitals.spared(now)

    def _choose(self, rows: Sequence[Row]) -> tuple[str, Manner] | None:
        """The model to ask, and how."""
        if self._lately.may_load():
            return None
        for row in rows:
            name = canonical(row.model or "")
            how = self._lately.known(name)
            if how is not None and (self._lately.is_at_work(name) or _stays(row)):
                return row.model or "", how
        return None

    async def _probe(self, client: EngineClient, model: str, how: Manner) -> int:
        """Ask for one token, or one embedding; the status."""
        if not how.embeds and model not in self._embed:
            body = {"prompt": ".", "raw": True, "stream": False}
            options = {"num_predict": 1, "temperature": 0}
            status, answer = await client.probe("/api/generate", _body(model, how, body, options))
            if status != 400 or _CANNOT not in answer:
                return status
            self._embed.add(model)
        status, _ = await client.probe("/api/embed", _body(model, how, {"input": "."}, {}))
        return status

    async def _look_at_places(self, now: float) -> None:
        """Whether a model is on the CPU alone, where there is a GPU. In part is normal."""
        client = await self._supervisor.ready()
        async with asyncio.timeout(self._inference.canary_timeout_s):
            rows = (await client.loaded()).models
        fallen = [
            row.model for row in rows if row.size_vram == 0 and row.size and self._is_meant(row)
        ]
        if not fallen:
            self._placed_at, self._fallen_since = now, None
            return
        text = f"the engine found a GPU when it started, and has {fallen[0]} on the CPU"
        if not self._inference.require_gpu:
            if not self._has_warned:
                _log.warning(text)
            self._has_warned = True
            self._placed_at = now
            return
        since = self._fallen_since = self._fallen_since or now
        # Slow as they are, answers that are nearly there may still end.
        if self._vitals.at_work and now - since < self._inference.canary_timeout_s:
            return
        unnoticed_s, self._placed_at, self._fallen_since = now - self._placed_at, now, None
        await self._supervisor.fail("fell_to_cpu", text, unnoticed_s)

    def _is_meant(self, row: Row) -> bool:
        """For the GPU: whoever called it last did not say `num_gpu: 0`."""
        how = self._lately.known(canonical(row.model or ""))
        return how is None or how.options.get("num_gpu") != 0

    async def _call_back(self) -> None:
        """Nobody waits for the canary any more: the engine has spoken, or is gone."""
        if self._out is not None:
            self._out.cancel()
            await asyncio.wait([self._out])
            self._out = None


def _body(
    model: str, how: Manner, rest: Mapping[str, object], options: Mapping[str, object]
) -> bytes:
    shift = {} if how.shift is None else {"shift": how.shift}
    return msgspec.json.encode(
        {"model": model, **rest, **shift, "options": {**how.options, **options}}
    )


def _stays(row: Row) -> bool:
    """Whether it is loaded until its place is needed."""
    if row.expires_at is None:
        return False
    expires = row.expires_at
    if expires.tzinfo is None:
        expires = expires.replace(tzinfo=UTC)
    return expires - datetime.now(UTC) > _FOREVER


def _seen(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.info("a canary did not come back: %s", type(error).__name__)
