"""The model store on this node's disk, as both engines lay it out: manifests, and blobs by sha256.

    <root>/manifests/<host>/<namespace>/<model>/<tag>    which blobs make a model (Docker's format)
    <root>/blobs/sha256-<hex>                            whole, or not there
    <root>/.rayllama/                                    ours: what is on its way, and locks

The layout is that of Ollama's server/manifest packages. Engines read it anew with each request, so
what appears here is listed at once. A blob has its name only when its sha256 has been seen to be
right, and a manifest appears only when all its blobs are there; both by a rename.

No path is of a caller's making: digests have the form of one, names are read as Ollama reads them,
and none of their parts can begin with a dot. What a symbolic link leads to outside isn't there.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import secrets
import time
from collections.abc import Generator, Iterator
from pathlib import Path

import msgspec

from serve.errors import BadRequest, NotFound
from serve.ollama.environment import models_dir
from serve.settings import Settings, environment
from serve.wire.names import canonical, parse
from serve.wire.native import quoted

PIECE = 4 << 20
"""The most bytes of a blob in one call."""

MANIFEST_BYTES = 1 << 20
_DIGEST = re.compile(r"sha256[:-]([0-9a-fA-F]{64})")
_HOUR_S = 3600.0
_UPLOAD_S, _FETCH_S = _HOUR_S, 7 * 24 * _HOUR_S
Mark = tuple[int, int, int, int]


class Layer(msgspec.Struct, frozen=True):
    """One blob of a model, as its manifest names it."""

    digest: str
    size: int = 0


class _Manifest(msgspec.Struct):
    layers: list[Layer]
    config: Layer | None = None


_manifest = msgspec.json.Decoder(_Manifest)


def digest_of(text: str) -> str:
    """`sha256:` and 64 small hex digits. Raises `BadRequest` for what is no digest."""
    found = _DIGEST.fullmatch(text)
    if found is None:
        raise BadRequest("invalid digest format")
    return f"sha256:{found[1].lower()}"


def blobs_of(manifest: bytes) -> list[Layer]:
    """All that a manifest names, each once. Raises `BadRequest` for what is no manifest."""
    try:
        read = _manifest.decode(manifest)
    except msgspec.DecodeError as exc:
        raise BadRequest("not a manifest of a model") from exc
    layers = [*read.layers, *([read.config] if read.config and read.config.digest else [])]
    return list({digest_of(layer.digest): layer for layer in layers}.values())


def sha256_of(data: bytes) -> str:
    """The digest of some bytes."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


class Depot:
    """One store. Its methods block, and raise `OSError` as files do; call them in a thread.

    `lock` is the file whose lock all hold who give names in the store; the embedded engine does.
    `is_lower`: names are files in lower case, as that engine wants them.
    """

    def __init__(self, root: Path, lock: Path, *, is_lower: bool = False) -> None:
        self.root = root
        self.ours = root / ".rayllama"
        self._blobs, self._manifests = root / "blobs", root / "manifests"
        self._lock = lock
        self._is_lower = is_lower
        self._digests: dict[Path, tuple[Mark, str]] = {}

    def blob(self, digest: str) -> Path | None:
        """Where a blob is; None if it isn't there. Raises `BadRequest` for what is no digest."""
        path = self.place(digest)
        return path if path.is_file() and _is_inside(path, self._blobs) else None

    def place(self, digest: str) -> Path:
        """Where a blob is, or would be. Raises `BadRequest`."""
        return self._blobs / digest_of(digest).replace(":", "-")

    def read(self, digest: str, at: int, size: int) -> bytes:
        """Up to `size` bytes of a blob from `at` on. Raises `NotFound` if it isn't there."""
        path = self.blob(digest)
        if path is None:
            raise NotFound(f"blob {quoted(digest)} not found")
        with path.open("rb") as file:
            return os.pread(file.fileno(), size, at)

    def listing(self) -> dict[str, str]:
        """What is there: full names in the spelling of the store, and the manifests' digests."""
        found: dict[str, str] = {}
        known: dict[Path, tuple[Mark, str]] = {}
        for name, path in self._files():
            with contextlib.suppress(OSError):
                known[path] = self._digested(path)
                found[name] = known[path][1]
        self._digests = known
        return found

    def manifest(self, name: str) -> bytes:
        """A manifest's bytes. Raises `NotFound`, or `BadRequest` for what is no name."""
        path = self._existing(name)
        if path is None:
            raise NotFound(f"model {quoted(name)} not found")
        return path.read_bytes()

    def missing(self, manifest: bytes) -> list[Layer]:
        """Those blobs of a manifest that aren't there, or not whole. Raises `BadRequest`."""
        lacking = []
        for layer in blobs_of(manifest):
            path = self.blob(layer.digest)
            if path is None or path.stat().st_size != layer.size:
                lacking.append(layer)
        return lacking

    def put_manifest(self, name: str, data: bytes) -> list[Layer]:
        """Lets the model be this from now on, unless blobs are missing: those are returned.

        Raises `BadRequest` for what is no name or no manifest.
        """
        parts = parse(name.lower() if self._is_lower else name)
        with self.locked():
            lacking = self.missing(data)
            if not lacking:
                plain = self._manifests / parts.host / parts.namespace / parts.model / parts.tag
                self._replace(self._existing(name) or plain, data)
        return lacking

    @contextlib.contextmanager
    def locked(self) -> Generator[None, None, None]:
        """Holds the store's lock; other processes and threads wait. Not re-entrant."""
        self._lock.parent.mkdir(parents=True, exist_ok=True)
        with self._lock.open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def unfinished(self, kind: str, digest: str) -> Path:
        """Where a blob of that kind (`upload` or `fetch`) grows until it has its name."""
        folder = self.ours / "unfinished"
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{kind}-{digest_of(digest)[7:]}"

    def sweep(self) -> None:
        """Removes unfinished uploads that nobody has added to for an hour, fetches for a week."""
        now = time.time()
        with contextlib.suppress(OSError):
            for path in (self.ours / "unfinished").iterdir():
                limit = _UPLOAD_S if path.name.startswith("upload-") else _FETCH_S
                with contextlib.suppress(OSError):
                    if now - path.lstat().st_mtime > limit:
                        path.unlink()

    def settle(self, grown: Path, digest: str) -> None:
        """Gives a file whose sha256 is that digest its name."""
        place = self.place(digest)
        with self.locked():
            place.parent.mkdir(parents=True, exist_ok=True)
            grown.replace(place)

    def free(self) -> int:
        """Bytes that the disk has left for us."""
        self.ours.mkdir(parents=True, exist_ok=True)
        stat = os.statvfs(self.ours)
        return stat.f_bavail * stat.f_frsize

    def _files(self) -> Iterator[tuple[str, Path]]:
        for path in self._manifests.glob("*/*/*/*"):
            host, namespace, model, tag = path.relative_to(self._manifests).parts
            name = f"{host}/{namespace}/{model}:{tag}"
            with contextlib.suppress(BadRequest):
                is_name = canonical(name) == name.lower()
                if is_name and path.is_file() and _is_inside(path, self._manifests):
                    yield name, path

    def _existing(self, name: str) -> Path | None:
        """The file of a name in any spelling."""
        wanted = canonical(name)
        return next((path for found, path in self._files() if found.lower() == wanted), None)

    def _digested(self, path: Path) -> tuple[Mark, str]:
        stat = path.stat()
        mark = (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns)
        known = self._digests.get(path)
        if known is not None and known[0] == mark:
            return known
        return mark, sha256_of(path.read_bytes())[7:]

    def _replace(self, path: Path, data: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not _is_inside(path.parent, self._manifests):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
        self.ours.mkdir(parents=True, exist_ok=True)
        unfinished = self.ours / f"manifest-{secrets.token_hex(8)}"
        try:
            with unfinished.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)


def depot_of(settings: Settings) -> Depot | None:
    """The store that an engine with these settings has; None if the engine isn't ours."""
    here, env = environment(), settings.inference.env
    if settings.inference.engine == "attach":
        return None
    if settings.inference.engine == "embedded":
        home = env["XDG_CACHE_HOME"].get_secret_value() if "XDG_CACHE_HOME" in env else ""
        store = Path(settings.embedded.store or Path(home or here.cache_home) / "rayllama")
        return Depot(store / "models", store / "lock", is_lower=True)
    root = models_dir(settings.inference, here)
    if "OLLAMA_MODELS" in env:
        root = Path(env["OLLAMA_MODELS"].get_secret_value())
    return Depot(root, root / ".rayllama" / "lock")


def _is_inside(path: Path, folder: Path) -> bool:
    """Is it in there when all links have been followed? The folder itself may be one."""
    return path.resolve().is_relative_to(folder.resolve())
