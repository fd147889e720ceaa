"""One engine's API over HTTP: raw bytes for answers, the `ollama` library for its models.

The only module that knows aiohttp, the `ollama` library and httpx, which that library is built on:
their errors become those of `serve.errors` here and nowhere else. Answers are read by aiohttp,
which has their first bytes in half of httpx's time (0.9 ms for 2.0, one warm connection).

Reading. What the engine sends is taken at once into a buffer of at most `BUFFER_BYTES`, however
slow the consumer is: an Ollama whose reader lags may lose a slot for good when the client then
leaves (ollama#17131). 8 MiB hold a whole long answer; beyond it the engine has to wait.

Handing on. NDJSON leaves in whole lines: the first as soon as it is there, later ones together as
they piled up while the consumer was busy, since every item costs about 200 µs across a Ray handle.
There is no timer: nothing waits for more.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import aiohttp
import httpx
import msgspec
import ollama
from yarl import URL

from serve.errors import EngineDied, EngineNotReady, EngineRefused
from serve.ollama.buffer import Buffer
from serve.ollama.pulse import Pulse
from serve.ports import Call, Head

BUFFER_BYTES = 8 << 20
_CONNECT_S = 5.0
_CONTROL_S = 10.0  # for what an engine answers at once when it is well
_IDLE_S = 3.0  # uvicorn closes idle connections after 5 s: never send on one that is about to close
_FOREIGN = "what listens there does not answer as Ollama does"
_NDJSON = "application/x-ndjson"
_HEADERS = {
    "Content-Type": "application/json",
    "Accept-Encoding": "identity",
    "User-Agent": "rayllama",
}


class _Version(msgspec.Struct):
    version: str


_version = msgspec.json.Decoder(_Version)


class EngineClient:
    """A client of one engine. No proxy from the environment, no total timeout, no compression.

    `pulse` is told of the calls and of every piece that comes.
    """

    def __init__(self, base_url: str, pulse: Pulse | None = None) -> None:
        self.base_url = base_url.rstrip("/")
        self._pulse = pulse
        self._http = aiohttp.ClientSession(
            trust_env=False,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S),
            # As many connections as calls: the gate bounds those, and a wait here would be unseen.
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_IDLE_S),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            headers=_HEADERS,
        )
        self._models = ollama.AsyncClient(host=base_url, trust_env=False)

    async def aclose(self) -> None:
        """Close all connections; running answers end with `EngineDied`."""
        await self._http.close()
        await self._models.close()  # type: ignore[no-untyped-call]

    async def stream(self, call: Call) -> AsyncGenerator[Head | bytes, None]:
        """The engine's answer: a `Head` once its first bytes are there, then bytes.

        Closing the generator closes the connection, and the engine stops.
        Raises `EngineNotReady` if nothing listens (the call reached nobody and may be repeated),
        `EngineDied` if the connection breaks, before or after the first byte.
        """
        async with Buffer(BUFFER_BYTES) as buffer:
            buffer.fill(self._read(call, buffer))
            head = await buffer.head()
            yield head
            by_lines = head.content_type.startswith(_NDJSON)
            while data := await buffer.take(by_lines=by_lines):
                yield data

    async def _read(self, call: Call, buffer: Buffer) -> None:
        """From the connection into the buffer, to the end."""
        if self._http.closed:  # its engine has been replaced just now
            raise EngineNotReady("the engine is not reachable")
        # aiohttp sends on a kept connection until it has read that the engine closed it. The event
        # loop learns of that in its next round, and tells in the one after.
        for _ in range(2):
            await asyncio.sleep(0)
        with _translated(), self._carrying(call) as beat:
            async with self._http.request(
                call.method,
                self._url(call.path),
                data=call.body or None,
                headers=_headers(call),
                allow_redirects=False,
            ) as response:
                buffer.begin(Head(response.status, response.headers.get("Content-Type", "")))
                async for data in response.content.iter_any():
                    if beat is not None:
                        beat(response.status)
                    if self._pulse is not None and buffer.is_full_with(data):
                        with self._pulse.held():
                            await buffer.put(data)
                    else:
                        await buffer.put(data)

    def _carrying(self, call: Call) -> AbstractContextManager[Callable[[int], None] | None]:
        return nullcontext() if self._pulse is None else self._pulse.carrying(call)

    async def probe(self, path: str, body: bytes) -> tuple[int, bytes]:
        """One call that nobody is told of: its status and answer. Raises as `stream` does."""
        with _translated():
            async with self._http.post(self._url(path), data=body) as response:
                return response.status, await response.read()

    async def version(self, timeout_s: float = _CONTROL_S) -> str:
        """What `/api/version` says. Raises `EngineNotReady`, `EngineDied` or `EngineRefused`."""
        try:
            return _version.decode(await self._get("/api/version", timeout_s)).version
        except msgspec.DecodeError as exc:
            raise EngineDied(_FOREIGN) from exc

    async def tags(self) -> bytes:
        """`/api/tags` as it is. Raises as `version` does."""
        return await self._get("/api/tags", _CONTROL_S)

    async def _get(self, path: str, timeout_s: float) -> bytes:
        timeout = aiohttp.ClientTimeout(total=timeout_s, sock_connect=_CONNECT_S)
        with _translated():
            async with self._http.get(self._url(path), timeout=timeout) as response:
                body = await response.read()
        if response.status != 200:
            raise EngineRefused(response.status, body.decode("utf-8", "replace"))
        return body

    def _url(self, path: str) -> URL:
        """As it is: a path is known, and is not to be quoted anew."""
        return URL(self.base_url + path, encoded=True)

    async def loaded(self) -> ollama.ProcessResponse:
        """The models that are loaded now (`/api/ps`)."""
        with _translated():
            return await self._models.ps()

    async def show(self, model: str) -> ollama.ShowResponse:
        """What the engine knows of a model (`/api/show`). Raises `EngineRefused` if nothing."""
        with _translated():
            return await self._models.show(model)

    async def load(self, model: str, keep_alive: str) -> None:
        """Load a model, and return when it is ready for requests.

        Raises `EngineRefused` with the engine's words when it can't.
        """
        alive = _keep_alive(keep_alive)
        with _translated():
            try:
                await self._models.generate(model=model, keep_alive=alive)
            except ollama.ResponseError as exc:
                # A model for embeddings refuses an empty prompt, and loads for an empty input.
                if exc.status_code != 400 or "does not support generate" not in exc.error:
                    raise
                await self._models.embed(model=model, input=[], keep_alive=alive)


def _headers(call: Call) -> dict[str, str]:
    """What differs from call to call."""
    headers = {"X-Request-ID": call.request_id}
    if call.content_type:
        headers["Content-Type"] = call.content_type
    if call.user_agent:
        headers["User-Agent"] = call.user_agent
    return headers


def _keep_alive(text: str) -> float | str:
    """As the API wants it: it refuses `"-1"`, which the environment variable takes."""
    try:
        return float(text)
    except ValueError:
        return text


@contextmanager
def _translated() -> Iterator[None]:
    """Foreign errors in, ours out. The most specific first."""
    try:
        yield
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as exc:
        raise EngineNotReady("the engine is not reachable") from exc
    except (httpx.TimeoutException, TimeoutError) as exc:  # of control calls: answers have none
        raise EngineNotReady("the engine does not answer") from exc
    except ollama.ResponseError as exc:
        raise EngineRefused(exc.status_code, exc.error) from exc
    except (aiohttp.ClientError, httpx.HTTPError, httpx.StreamError, httpx.InvalidURL) as exc:
        raise EngineDied from exc
    except ConnectionError as exc:  # the library's word for it; aiohttp's resets are above
        raise EngineNotReady("the engine is not reachable") from exc
    except ValueError as exc:  # the library could not read what came
        raise EngineDied(_FOREIGN) from exc
