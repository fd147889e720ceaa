"""A registry of models, as Ollama asks it: manifests and blobs over HTTP, with ranges.

A registry is asked over HTTPS, or over plain HTTP where the client says `insecure`. What fails is
told in the words of Go's HTTP client, which Ollama passes on.
"""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncGenerator, Iterator
from typing import BinaryIO, Self

import httpx

from serve.embedded.blobs import Blobs
from serve.embedded.manifests import MANIFEST_TYPE, Layer
from serve.errors import EngineError
from serve.wire.names import Name
from serve.wire.native import quoted

_TIMEOUT = httpx.Timeout(30, read=60)
_RETRIES = 5
_PAUSE_S = 0.05
_POLL_S = 0.05
_NOT_FOUND = 404
_PARTIAL = 206


class MismatchError(EngineError):
    """A blob came whole, and isn't the one that was asked for."""


class Registry:
    """One model's place in a registry."""

    def __init__(self, client: httpx.AsyncClient, name: Name, *, insecure: bool) -> None:
        self._client = client
        scheme = "http" if insecure else "https"
        self._url = f"{scheme}://{name.host}/v2/{name.namespace}/{name.model}"

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, name: Name, *, insecure: bool) -> AsyncGenerator[Self, None]:
        """With connections of its own, which end with the context."""
        async with httpx.AsyncClient(follow_redirects=True, timeout=_TIMEOUT) as client:
            yield cls(client, name, insecure=insecure)

    async def manifest(self, tag: str) -> bytes:
        """The bytes of a manifest. Raises `EngineError`."""
        url = f"{self._url}/manifests/{tag}"
        with in_go("Get", url):
            answer = await self._client.get(url, headers={"accept": MANIFEST_TYPE})
        if answer.status_code == _NOT_FOUND:
            raise EngineError("file does not exist")
        if answer.is_error:
            raise EngineError(f"{answer.status_code}: {answer.text[:500]}")
        return answer.content

    async def download(self, blobs: Blobs, layer: Layer) -> AsyncGenerator[int, None]:
        """Makes the layer a blob; how many bytes of it are there, as they come.

        One task of one engine loads it, and goes on where another has left off; the rest look on.
        Raises `EngineError`, `MismatchError`, `OSError`.
        """
        partial = blobs.partial(layer.digest)
        while not blobs.has(layer.digest):
            with blobs.claimed(layer.digest) as file:
                if file is not None and not blobs.has(layer.digest):
                    filling = self._fill(file, layer)
                    async with contextlib.aclosing(filling):
                        async for done in filling:
                            yield done
                    file.flush()
                    found = await asyncio.to_thread(blobs.settle, partial, layer.digest)
                    if found != layer.digest:
                        raise MismatchError(
                            "digest mismatch, file must be downloaded again: "
                            f"want {layer.digest}, got {found}"
                        )
                elif file is not None:
                    partial.unlink(missing_ok=True)
            if file is None:
                with contextlib.suppress(FileNotFoundError):
                    yield partial.stat().st_size
                await asyncio.sleep(_POLL_S)
        yield layer.size

    async def _fill(self, file: BinaryIO, layer: Layer) -> AsyncGenerator[int, None]:
        """Appends what is missing; a connection that breaks is made again, a few times in a row."""
        url = f"{self._url}/blobs/{layer.digest}"
        done, failures = file.seek(0, 2), 0
        while done != layer.size:
            try:
                async for size in self._rest(file, url, done, layer.size):
                    done, failures = size, 0
                    yield done
                if done != layer.size:
                    raise httpx.RemoteProtocolError("unexpected EOF")
            except httpx.TransportError:
                failures += 1
                if failures > _RETRIES:
                    with in_go("Get", url):
                        raise
                await asyncio.sleep(_PAUSE_S * 2**failures)

    async def _rest(
        self, file: BinaryIO, url: str, start: int, size: int
    ) -> AsyncGenerator[int, None]:
        """What comes of one request for the bytes from `start` on, as the size of the file."""
        headers = {"range": f"bytes={start}-", "accept-encoding": "identity"}
        async with self._client.stream("GET", url, headers=headers) as answer:
            if answer.is_error:
                raise EngineError(f"{answer.status_code}: {answer.reason_phrase}")
            done = start if answer.status_code == _PARTIAL else 0
            file.truncate(done)
            file.seek(done)
            async for data in answer.aiter_bytes(1 << 20):
                done += len(data)
                if done > size:
                    raise EngineError(f"{quoted(url)} is longer than its manifest says")
                await asyncio.to_thread(file.write, data)
                yield done


@contextlib.contextmanager
def in_go(verb: str, url: str) -> Iterator[None]:
    """Raises `EngineError` as Go words what httpx raises."""
    try:
        yield
    except httpx.HTTPError as error:
        raise EngineError(f"{verb} {quoted(url)}: {_words(error, httpx.URL(url))}") from None


def _words(error: BaseException, url: httpx.URL) -> str:
    cause: BaseException | None = error
    address = f"{url.host}:{url.port or (443 if url.scheme == 'https' else 80)}"
    while cause is not None:
        if isinstance(cause, socket.gaierror):
            return f"dial tcp: lookup {url.host}: no such host"
        if isinstance(cause, ConnectionRefusedError):
            return f"dial tcp {address}: connect: connection refused"
        if isinstance(cause, ssl.SSLEOFError | ssl.SSLZeroReturnError | ConnectionResetError):
            return "EOF"
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, httpx.TimeoutException):
        return "net/http: timeout awaiting response headers"
    refused = isinstance(error, httpx.ConnectError) and "All connection attempts" in str(error)
    if refused:
        return f"dial tcp {address}: connect: connection refused"
    return str(error) or "EOF"
