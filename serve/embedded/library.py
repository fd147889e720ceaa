"""The models of the store, as sources: what was created, copied and pulled."""

import functools
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from serve.embedded import manifests
from serve.embedded.blobs import Blobs
from serve.embedded.manifests import Manifest, Manifests
from serve.embedded.sources import Source
from serve.embedded.store import Mark, Store, mark_of
from serve.embedded.templates import jinja_of
from serve.errors import RayllamaError
from serve.wire.messages import Message
from serve.wire.options import Options

_log = logging.getLogger(__name__)
_MESSAGES = TypeAdapter(tuple[Message, ...])


class Library:
    """Sources by canonical name, read again when a manifest changes, whoever changed it."""

    def __init__(self, store: Store) -> None:
        self.blobs = Blobs(store)
        self.manifests = Manifests(store, self.blobs)
        self._known: dict[str, tuple[Mark, Source | None]] = {}

    def names(self) -> list[str]:
        """The canonical names of all models of the store."""
        return self.manifests.names()

    def source(self, name: str) -> Source | None:
        """The same one until the manifest changes; None where there is none, or none of use."""
        path = self.manifests.path(name)
        try:
            mark = mark_of(path)
        except OSError:
            self._known.pop(name, None)
            return None
        known = self._known.get(name)
        if known is None or known[0] != mark:
            known = self._known[name] = (mark, self._read(name, path))
        return known[1]

    def _read(self, name: str, path: Path) -> Source | None:
        manifest = self.manifests.read(name)
        if manifest is None:
            return None
        try:
            return self._source(path, manifest)
        except (OSError, ValueError, RayllamaError) as error:
            _log.warning("%s is not available: %s", name, error)
            return None

    def _source(self, path: Path, manifest: Manifest) -> Source:
        weights = manifest.of(manifests.MODEL)
        if len(weights) != 1:
            raise ValueError("the embedded engine serves models of one GGUF file")
        text = functools.partial(self._text, manifest)
        options: dict[str, Any] = json.loads(text(manifests.PARAMETERS) or "{}")
        Options.merged(options)
        go = text(manifests.TEMPLATE)
        template = text(manifests.JINJA) or jinja_of(go) or ""
        return Source(
            _located(self.blobs.path(weights[0].digest)),
            template,
            options=options,
            system=text(manifests.SYSTEM),
            manifest=path,
            messages=_MESSAGES.validate_json(text(manifests.MESSAGES) or "[]"),
            licenses=tuple(self._texts(manifest, manifests.LICENSE)),
            parent=weights[0].parent,
            foreign="" if template else go,
            size=sum(layer.size for layer in manifest.blobs),
        )

    def _text(self, manifest: Manifest, media_type: str) -> str:
        return next(iter(self._texts(manifest, media_type)), "")

    def _texts(self, manifest: Manifest, media_type: str) -> list[str]:
        layers = manifest.of(media_type)
        return [self.blobs.path(layer.digest).read_text(encoding="utf-8") for layer in layers]


def _located(path: Path) -> Callable[[], Any]:
    async def locate() -> Path:
        return path

    return locate
