"""`rayllama cache export` and `import`: the cache as a file, from one cluster to another.

The file is there only when it is whole, and one that isn't is not sent.
"""

import http.client
import json
from argparse import Namespace
from contextlib import closing
from typing import Any

from serve.cache.bundle import Whole
from serve.cache.places import split
from serve.cache.snapshot import Reader
from serve.cli.admin import ask, asked, printed, refused, shown, subcommand
from serve.errors import ConfigError, SnapshotRefused

_PIECE_BYTES = 1 << 20


def add_to(whats: Any) -> None:
    """The two subcommands and their arguments."""
    exports = subcommand(whats, "export", "write the entries to a file", _export)
    exports.add_argument("file", metavar="FILE", help="a path or an fsspec URL, like s3://bucket/x")
    exports.add_argument("--model", default="", help="those of a model, like smollm2:135m")
    exports.add_argument("--tenant", default="", help="those of a tenant")

    imports = subcommand(whats, "import", "take in the entries of such a file", _import)
    imports.add_argument("file", metavar="FILE", help="a path or an fsspec URL")


def _export(arguments: Namespace) -> int:
    place, name = split(arguments.file)
    which = json.dumps({"model": arguments.model, "tenant": arguments.tenant}).encode()
    opened, whole = place.write(name), Whole()
    with asked(arguments, "POST", "/admin/cache/export", which) as response, closing(opened):
        refused(arguments, response)
        try:
            _copy(response, opened.open(), whole)
            whole.end()
            opened.commit()
        except SnapshotRefused as error:
            raise ConfigError(f"{arguments.file} was not written: {error}") from error
        except http.client.IncompleteRead as error:
            text = "the export broke off; Rayllama's log says why"
            raise ConfigError(f"{arguments.file} was not written: {text}") from error
        except OSError as error:
            raise ConfigError(f"{arguments.file} was not written: {error}") from error
    told = {"entries": whole.entries, "file_bytes": whole.size}
    if not printed(arguments, told):
        print(f"wrote {shown(whole.entries)} entries, {shown(whole.size)} bytes")
    return 0


def _copy(response: http.client.HTTPResponse, file: Any, whole: Whole) -> None:
    while piece := response.read(_PIECE_BYTES):
        whole.see(piece)
        file.write(piece)


def _import(arguments: Namespace) -> int:
    place, name = split(arguments.file)
    try:
        file = place.read(name)
    except OSError as error:
        raise ConfigError(f"{arguments.file} can't be read: {error}") from error
    with closing(file):
        try:
            Reader(file, arguments.file)
        except SnapshotRefused as error:
            raise ConfigError(f"refused: {error}") from error
        file.seek(0)
        answer = ask(arguments, "POST", "/admin/cache/import", file)
    if not printed(arguments, answer):
        skipped = answer["skipped"]
        why = ", ".join(f"{shown(count)} {reason}" for reason, count in sorted(skipped.items()))
        print(
            f"took in {shown(answer['taken'])} entries; {shown(answer['expired'])} had expired; "
            f"skipped {shown(sum(skipped.values()))}" + (f" ({why})" if why else "")
        )
    return 0
