"""The `rayllama` command: `up` and `down`, `check`, `schema`, `fields`, `key`, `bench`, `cache`,
`conformance`, `fleet`, `openapi`.

Quick to import: neither Ray nor an engine is loaded by a command that doesn't need it.
Exit status: 0 done, 1 failed while running, 2 refused (the config, the machine, the arguments).
"""

import hashlib
import secrets
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

from serve.cli import bench, cache, conformance, fields, fleet, openapi, schema
from serve.cli.child import LOCAL
from serve.cli.deployfile import find, load, remarks
from serve.cli.up import down, up
from serve.errors import ConfigError

REFUSED = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status. Faults of the operator are lines, never tracebacks."""
    parsed = _parser().parse_args(arguments)
    try:
        status: int = parsed.command(parsed)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return REFUSED
    except BrokenPipeError:  # `rayllama schema | head`
        sys.stderr.close()
        return 1
    return status


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="rayllama", description="One Ollama for a whole GPU cluster, with an answer cache."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    starts = commands.add_parser("up", help="check this machine, start Rayllama, stop it on Ctrl-C")
    starts.add_argument("config", nargs="?", help="a config file (default: configs/local.yaml)")
    starts.add_argument(
        "--address",
        default=LOCAL,
        help="a Ray cluster that runs already, like auto or HOST:6379 (default: start one)",
    )
    starts.add_argument(
        "--python-proxy",
        action="store_true",
        help="Serve's slower Python proxy, as where there is no HAProxy",
    )
    starts.set_defaults(command=up)

    stops = commands.add_parser("down", help="stop a Rayllama, or what one left behind")
    stops.set_defaults(command=down)

    checks = commands.add_parser("check", help="check config files, start nothing")
    checks.add_argument("configs", nargs="+", metavar="CONFIG")
    checks.set_defaults(command=_check)

    shows = commands.add_parser("schema", help="the JSON schema of a config file")
    shows.add_argument("--markdown", action="store_true", help="the settings as a table instead")
    shows.add_argument("--into", metavar="FILE", help="put the table between a document's marks")
    shows.set_defaults(command=_schema)

    makes = commands.add_parser("key", help="make an API key and its line for the config")
    makes.add_argument("--tenant", default="default", help="whose key it is")
    makes.set_defaults(command=_key)

    bench.add_to(commands)
    cache.add_to(commands)
    conformance.add_to(commands)
    fields.add_to(commands)
    fleet.add_to(commands)
    openapi.add_to(commands)
    return parser


def _check(arguments: Namespace) -> int:
    faults = 0
    for given in arguments.configs:
        try:
            path = find(given)
            file = load(path)
        except ConfigError as error:
            print(error, file=sys.stderr)
            faults += 1
            continue
        print(f"{path}: valid")
        for remark in remarks(file):
            print(f"{path}: note: {remark}")
    return REFUSED if faults else 0


def _schema(arguments: Namespace) -> int:
    if arguments.into:
        document = Path(arguments.into)
        document.write_text(schema.into_markdown(document.read_text("utf-8")), "utf-8")
        return 0
    print(schema.as_markdown() if arguments.markdown else schema.as_json(), end="")
    return 0


def _key(arguments: Namespace) -> int:
    key = f"rl-{secrets.token_urlsafe(24)}"
    print(f"key (shown once, give it to the client): {key}")
    print("for the config, under applications[0].args:")
    print("  auth:")
    print("    keys:")
    print(f"      - sha256: {hashlib.sha256(key.encode()).hexdigest()}")
    print(f"        tenant: {arguments.tenant}")
    return 0
