"""Manifests: which blobs make a model, a file for every name, in Docker's format as in Ollama.

A manifest appears and vanishes at once, under the store's lock, and never names a blob that isn't
there: what a manifest that goes was the last to name, goes with it.
"""

import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from serve.embedded.blobs import Blobs, digest_of
from serve.embedded.store import Store
from serve.errors import EngineError, RayllamaError
from serve.wire.names import canonical, parse

_log = logging.getLogger(__name__)

MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG_TYPE = "application/vnd.docker.container.image.v1+json"
MODEL = "application/vnd.ollama.image.model"
TEMPLATE = "application/vnd.ollama.image.template"
SYSTEM = "application/vnd.ollama.image.system"
PARAMETERS = "application/vnd.ollama.image.params"
MESSAGES = "application/vnd.ollama.image.messages"
LICENSE = "application/vnd.ollama.image.license"
JINJA = "application/vnd.rayllama.image.jinja"
"""Not Ollama's, which passes it over: the chat template as llama.cpp reads it."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One blob of a model: what it is, which, its bytes, and the model it was taken from."""

    media_type: str
    digest: str
    size: int
    parent: str = ""

    @classmethod
    def read(cls, value: Any) -> Self:
        """From a manifest. Raises `ValueError` for what is no layer."""
        try:
            size, parent = int(value["size"]), str(value.get("from", ""))
            layer = cls(str(value["mediaType"]), digest_of(str(value["digest"])), size, parent)
        except (KeyError, TypeError, AttributeError, RayllamaError) as error:
            raise ValueError(f"a layer is not one: {error}") from None
        if layer.size < 0:
            raise ValueError("a layer of less than nothing")
        return layer

    def as_json(self) -> dict[str, Any]:
        """As a manifest holds it."""
        value = {"mediaType": self.media_type, "digest": self.digest, "size": self.size}
        return value | ({"from": self.parent} if self.parent else {})


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a model is made of."""

    config: Layer
    layers: tuple[Layer, ...]

    @classmethod
    def read(cls, data: bytes) -> Self:
        """From its file. Raises `ValueError` for what is no manifest."""
        value = json.loads(data)
        if not isinstance(value, dict) or not isinstance(value.get("layers"), list):
            raise ValueError("not a manifest of a model")  # noqa: TRY004 - as json says it
        return cls(Layer.read(value.get("config")), tuple(map(Layer.read, value["layers"])))

    def written(self) -> bytes:
        """As its file."""
        return json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": MANIFEST_TYPE,
                "config": self.config.as_json(),
                "layers": [layer.as_json() for layer in self.layers],
            },
            separators=(",", ":"),
        ).encode()

    @property
    def blobs(self) -> Sequence[Layer]:
        """All that must be there."""
        return (*self.layers, self.config)

    def of(self, media_type: str) -> list[Layer]:
        """The layers of one kind."""
        return [layer for layer in self.layers if layer.media_type == media_type]


class Manifests:
    """The manifests of a store by canonical name. Its methods block; writing raises `OSError`."""

    def __init__(self, store: Store, blobs: Blobs) -> None:
        self._store = store
        self._blobs = blobs
        self._folder = store.root / "models" / "manifests"

    def path(self, name: str) -> Path:
        """Where it is, or would be. Raises `BadRequest` for what is no name, so that the path has
        no part but those of a name, none of which can begin with a dot."""
        parts = parse(name.lower())
        return self._folder / parts.host / parts.namespace / parts.model / parts.tag

    def read(self, name: str) -> Manifest | None:
        """The manifest; None where there is none that can be read."""
        try:
            return Manifest.read(self.path(name).read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            _log.warning("the manifest of %s can't be read: %s", name, error)
            return None

    def names(self) -> list[str]:
        """The canonical names of all that are there."""
        found = []
        for path in self._folder.glob("*/*/*/*"):
            host, namespace, model, tag = path.relative_to(self._folder).parts
            name = f"{host}/{namespace}/{model}:{tag}"
            if _is_canonical(name):
                found.append(name)
        return found

    def write(self, name: str, data: bytes) -> None:
        """Lets the model be this from now on. Raises `EngineError` if a blob of it is missing."""
        manifest = Manifest.read(data)
        path = self.path(name)
        with self._store.locked():
            for layer in manifest.blobs:
                self._blobs.existing(layer.digest)
            old = self.read(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            with self._store.replacing(path) as unfinished:
                unfinished.write_bytes(data)
            if old is not None:
                self._sweep(old.blobs)

    def copy(self, source: str, target: str) -> None:
        """Gives a model another name too. Raises `EngineError` if it is gone."""
        try:
            data = self.path(source).read_bytes()
        except FileNotFoundError as error:
            raise EngineError(f"open {error.filename}: no such file or directory") from None
        self.write(target, data)

    def delete(self, name: str) -> bool:
        """Removes a model, and the blobs that no other one has; was there one?"""
        with self._store.locked():
            path, manifest = self.path(name), self.read(name)
            try:
                path.unlink()
            except FileNotFoundError:
                return False
            if manifest is not None:
                self._sweep(manifest.blobs)
        return True

    def _sweep(self, layers: Iterable[Layer]) -> None:
        """Removes those blobs that no manifest names; the store is locked."""
        manifests = [self.read(name) for name in self.names()]
        kept = {layer.digest for manifest in manifests if manifest for layer in manifest.blobs}
        for digest in {layer.digest for layer in layers} - kept:
            self._blobs.path(digest).unlink(missing_ok=True)


def _is_canonical(name: str) -> bool:
    try:
        return canonical(name) == name
    except RayllamaError:
        return False
