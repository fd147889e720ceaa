"""A registry that is given models: blobs in parts, each acknowledged, then the manifest.

As Ollama does it (server/upload.go): a POST opens an upload and names its address; each part is a
PATCH that names the next one, or is sent on with a 307 to another host, by PUT; a PUT with the
digest closes it. Parts go one after the other.
"""

import asyncio
import hashlib
import os
from collections.abc import AsyncGenerator, Iterator
from contextlib import suppress
from pathlib import Path

import httpx

from serve.embedded.manifests import MANIFEST_TYPE, Layer
from serve.embedded.registry import Registry, in_go
from serve.errors import EngineError

_PART = 100 * 1000 * 1000
_CHUNK = 1 << 20
_TICK_S = 0.06
_RETRIES = 5
_PAUSE_S = 0.05
_BYTES = {"content-type": "application/octet-stream"}


class Upstream(Registry):
    """One model's place in a registry, to write to."""

    async def has(self, digest: str) -> bool:
        """Is the blob there? Raises `EngineError`."""
        url = f"{self._url}/blobs/{digest}"
        answer = await self._ask("HEAD", url)
        if answer.status_code == 404:
            return False
        _check(answer)
        return True

    async def put_manifest(self, tag: str, data: bytes) -> None:
        """Names what has been uploaded. Raises `EngineError`."""
        url = f"{self._url}/manifests/{tag}"
        _check(await self._ask("PUT", url, {"content-type": MANIFEST_TYPE}, data))

    async def upload(self, file: Path, layer: Layer) -> AsyncGenerator[int, None]:
        """Makes the registry have a blob; how many bytes of it were sent, as they leave.

        Raises `EngineError`, `OSError`.
        """
        opened = await self._ask("POST", f"{self._url}/blobs/uploads/")
        _check(opened)
        size = (await asyncio.to_thread(file.stat)).st_size
        place, sums = _next(opened), []
        for start in range(0, size, _PART):
            part = _Part(file, start, min(_PART, size - start))
            task = asyncio.get_running_loop().create_task(self._part(part, place))
            try:
                while not (await asyncio.wait([task], timeout=_TICK_S))[0]:
                    yield start + part.sent
                place = task.result()
            finally:
                task.cancel()
                await asyncio.wait([task])
            sums.append(part.md5)
            yield start + part.sent
        etag = f"{hashlib.md5(b''.join(sums), usedforsecurity=False).hexdigest()}-{len(sums)}"
        closing = httpx.URL(place).copy_merge_params({"digest": layer.digest, "etag": etag})
        _check(await self._ask("PUT", str(closing), _BYTES))

    async def _part(self, part: "_Part", place: str) -> str:
        """Sends a part, again where the connection breaks; the address of what comes next."""
        for failures in range(1, _RETRIES + 1):
            with suppress(httpx.TransportError):
                return await self._once(part, place)
            await asyncio.sleep(_PAUSE_S * 2**failures)
        with in_go("Patch", place):
            return await self._once(part, place)

    async def _once(self, part: "_Part", place: str) -> str:
        ends = f"{part.start}-{part.start + part.size - 1}"
        headers = {"content-range": ends, "x-redirect-uploads": "1"}
        answer = await self._send("PATCH", place, part, headers)
        if answer.status_code == 307:
            _check(await self._send("PUT", _location(answer, "location"), part, {}))
        else:
            _check(answer)
        return _next(answer)

    async def _send(
        self, verb: str, place: str, part: "_Part", headers: dict[str, str]
    ) -> httpx.Response:
        length = {"content-length": str(part.size)}
        return await self._client.request(
            verb,
            place,
            headers=_BYTES | length | headers,
            content=part.chunks(),
            follow_redirects=False,
        )

    async def _ask(
        self, verb: str, url: str, headers: dict[str, str] | None = None, data: bytes = b""
    ) -> httpx.Response:
        with in_go(verb.title(), url):
            return await self._client.request(verb, url, headers=headers, content=data)


class _Part:
    """A piece of a file on its way; `sent` and `md5` are of the last time it was read."""

    def __init__(self, file: Path, start: int, size: int) -> None:
        self._file = file
        self.start = start
        self.size = size
        self.sent = 0
        self.md5 = b""

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Its bytes. Raises `OSError`."""
        self.sent, md5 = 0, hashlib.md5(usedforsecurity=False)
        for at, size in _ranges(self.size):
            data = await asyncio.to_thread(_read, self._file, self.start + at, size)
            md5.update(data)
            yield data
            self.sent += len(data)
        self.md5 = md5.digest()


def _ranges(size: int) -> Iterator[tuple[int, int]]:
    return ((at, min(_CHUNK, size - at)) for at in range(0, size, _CHUNK))


def _read(file: Path, at: int, size: int) -> bytes:
    with file.open("rb") as opened:
        return os.pread(opened.fileno(), size, at)


def _next(answer: httpx.Response) -> str:
    return _location(answer, "docker-upload-location", "location")


def _location(answer: httpx.Response, *names: str) -> str:
    for name in names:
        if answer.headers.get(name):
            return str(answer.request.url.join(answer.headers[name]))
    raise EngineError("the registry doesn't say where uploads go")


def _check(answer: httpx.Response) -> None:
    if answer.status_code == 404:
        raise EngineError("file does not exist")
    if answer.is_error:
        raise EngineError(f"{answer.status_code}: {answer.text[:500]}")
