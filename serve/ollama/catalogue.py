"""Which models an engine has: `/api/tags` read and shared between those who ask.

Rows stay the JSON bytes that the engine sent, since they are passed on.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from hashlib import sha256

import msgspec

from serve.errors import BadRequest, EngineDied
from serve.ports import Model
from serve.settings import Settings
from serve.wire.names import canonical

Read = asyncio.Task[Mapping[str, Model]]


class _Row(msgspec.Struct):
    name: str
    digest: str = ""


class _Tags(msgspec.Struct):
    models: list[msgspec.Raw] | None = None


_tags = msgspec.json.Decoder(_Tags)
_row = msgspec.json.Decoder(_Row)


def parse_tags(tags: bytes) -> Mapping[str, Model]:
    """The rows of `/api/tags` by canonical name.

    Raises `EngineDied` if this isn't what an engine says. A row whose name breaks Ollama's own
    rules can't be asked for, and is left out.
    """
    models: dict[str, Model] = {}
    try:
        for raw in _tags.decode(tags).models or ():
            row = _row.decode(raw)
            try:
                models[canonical(row.name)] = Model(row.digest, bytes(raw))
            except BadRequest:
                continue
    except msgspec.DecodeError as exc:
        raise EngineDied("the engine's list of models could not be read") from exc
    return models


def fingerprint(settings: Settings, engine_version: str) -> str:
    """What besides the model's digest decides an engine's answers, in one string.

    An attached engine was started by somebody else: its address stands for what we can't know, and
    those of one pool are alike, since whoever put them there says so.
    """
    inference = settings.inference
    kind = f"{inference.engine}/{engine_version}"
    if inference.engine == "attach":
        return f"{kind} at={' '.join(sorted(inference.urls)) or inference.url}"
    flash = {None: "auto", True: "on", False: "off"}[inference.flash_attention]
    parts = [
        kind,
        f"ctx={inference.context_length}",
        f"kv={inference.kv_cache_type or 'f16'}",
        f"flash={flash}",
    ]
    if inference.env:  # any of it may matter; some of it may be secret
        plain = {name: value.get_secret_value() for name, value in inference.env.items()}
        ordered = msgspec.json.encode(plain, order="sorted")
        parts.append(f"env={sha256(ordered).hexdigest()[:12]}")
    return " ".join(parts)


class CatalogueReader:
    """Fresh reads of the list, no more than one at a time however many ask.

    A read serves everybody who asked before it began, nobody who came after: what it says was
    true at some time after the question. Owns the tasks that read; `aclose` ends them.
    """

    def __init__(self, read: Callable[[], Awaitable[bytes]]) -> None:
        self._read = read
        self._running: Read | None = None
        self._next: Read | None = None
        self._bytes = b""
        self._models: Mapping[str, Model] = {}

    def ask(self) -> Read:
        """The read that begins after this call. Await it behind `asyncio.shield`: it is shared."""
        if self._next is None:
            self._next = asyncio.get_running_loop().create_task(self._after(self._running))
            self._next.add_done_callback(_seen)
        return self._next

    async def fresh(self) -> Mapping[str, Model]:
        """What the engine lists now. Raises what the read raises."""
        return await asyncio.shield(self.ask())

    async def aclose(self) -> None:
        """End the reads that run; who waits for them gets `CancelledError`."""
        tasks = [task for task in (self._running, self._next) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _after(self, previous: Read | None) -> Mapping[str, Model]:
        if previous is not None:
            await asyncio.wait([previous])
        self._running, self._next = self._next, None
        tags = await self._read()
        if tags != self._bytes:
            self._models, self._bytes = parse_tags(tags), tags
        return self._models


def _seen(task: Read) -> None:
    if not task.cancelled():
        task.exception()  # whoever asked may be gone; then nobody else needs to hear of it
