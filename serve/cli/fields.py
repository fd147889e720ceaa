"""What becomes of the fields of other dialects' requests, as tables for the README."""

from argparse import Namespace
from itertools import groupby
from pathlib import Path
from typing import Any

from serve.errors import ConfigError
from serve.wire.fields import FIELDS, Fate, Fields

_BEGIN = "<!-- fields: from `rayllama fields` -->"
_END = "<!-- /fields -->"
_ORDER = ("translated", "passed through", "rendered", "refused", "ignored")


def add_to(commands: Any) -> None:
    """`rayllama fields`."""
    shows = commands.add_parser("fields", help="what becomes of each field of a /v1 request")
    shows.add_argument("--into", metavar="FILE", help="put the tables between a document's marks")
    shows.set_defaults(command=_run)


def _run(arguments: Namespace) -> int:
    if arguments.into:
        document = Path(arguments.into)
        document.write_text(into_markdown(document.read_text("utf-8")), "utf-8")
        return 0
    print(as_markdown(), end="")
    return 0


def as_markdown() -> str:
    """A table a route; fields with the same fate share a row."""
    tables = [f"`{route}`\n\n{_table(fields)}" for route, fields in FIELDS.items()]
    return "\n\n".join(tables) + "\n"


def into_markdown(text: str) -> str:
    """A document with the tables between its two marks. Raises `ConfigError` without them."""
    head, found, rest = text.partition(_BEGIN)
    _, end, tail = rest.partition(_END)
    if not (found and end):
        raise ConfigError(f"the marks {_BEGIN} and {_END} are missing")
    return f"{head}{_BEGIN}\n\n{as_markdown()}\n{_END}{tail}"


def _table(fields: Fields) -> str:
    rows = [
        f"| {', '.join(f'`{path}`' for path, _ in group)} | {fate.what}: {fate.how} |"
        for fate, group in groupby(sorted(fields.items(), key=_by_fate), key=_fate)
    ]
    return "\n".join(["| field | is |", "|---|---|", *rows])


def _fate(item: tuple[str, Fate]) -> Fate:
    return item[1]


def _by_fate(item: tuple[str, Fate]) -> tuple[int, str]:
    return _ORDER.index(item[1].what), item[1].how
