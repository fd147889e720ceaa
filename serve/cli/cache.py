"""`rayllama cache`: what a running Rayllama's cache holds, what it would say, and its purge.

Speaks to the admin API (`admin.host`, `admin.port`), straight to the address, through no proxy.
"""

import json
import sys
from argparse import Namespace
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from serve.cli import bundles
from serve.cli.admin import ask, printed, shown, subcommand
from serve.errors import ConfigError
from serve.settings import Seconds


def add_to(commands: Any) -> None:
    """The command, its subcommands and their arguments."""
    parser = commands.add_parser("cache", help="what the cache holds, would say, and forgets")
    whats = parser.add_subparsers(required=True, metavar="WHAT")

    subcommand(whats, "stats", "what each shard holds and has done", _stats)

    explains = subcommand(whats, "explain", "what would become of a request, and why", _explain)
    explains.add_argument("path", help="like /api/chat or /v1/chat/completions")
    explains.add_argument("body", help="its JSON; @FILE: in that file; -: on stdin")
    explains.add_argument(
        "--header",
        action="append",
        default=[],
        metavar="NAME: VALUE",
        help="a header of it, like 'Cache-Control: no-cache'",
    )
    explains.add_argument("--tenant", default="default", help="whose request it would be")

    purges = subcommand(whats, "purge", "drop entries; without --yes, only count them", _purge)
    purges.add_argument("--model", default="", help="those of a model, like smollm2:135m")
    purges.add_argument("--tenant", default="", help="those of a tenant")
    purges.add_argument("--entry", default="", metavar="KEY", help="one, as `explain` names it")
    purges.add_argument(
        "--older-than", default="0", metavar="TIME", help="stored so long ago, like 30m, 2h, 1d"
    )
    purges.add_argument("--yes", action="store_true", help="do it")

    subcommand(whats, "pause", "read nothing from the cache and keep nothing", _pause)
    subcommand(whats, "resume", "use it again", _resume)
    bundles.add_to(whats)


def _stats(arguments: Namespace) -> int:
    answer = ask(arguments, "GET", "/admin/cache/stats")
    if not printed(arguments, answer):
        print(table(answer))
        print("\n" + requests_table(answer["requests"]))
        if answer["edge"]:
            print("\n" + edge_table(answer["edge"]))
    return 0


def _explain(arguments: Namespace) -> int:
    headers = dict(_header(given) for given in arguments.header)
    # Put together as text, so that the request arrives to the letter.
    rest = json.dumps({"path": arguments.path, "headers": headers, "tenant": arguments.tenant})
    text = f'{rest[:-1]}, "body": {_body(arguments.body)}}}'
    answer = ask(arguments, "POST", "/admin/cache/explain", text.encode())
    if printed(arguments, answer):
        return 0
    verdict, reason = answer.pop("verdict"), answer.pop("reason")
    edge = answer.pop("edge", [])
    print(f"{verdict}: {reason}" if reason else verdict)
    for name, value in answer.items():
        if value not in ("", None):
            print(f"  {name:13} {shown(value)}")
    for node in edge:
        print(f"  edge {node['node']} {'yes' if node['is_there'] else 'no'}: {node['why']}")
    return 0


def _purge(arguments: Namespace) -> int:
    which = {
        "model": arguments.model,
        "tenant": arguments.tenant,
        "key": arguments.entry,
        "older_than_s": _seconds(arguments.older_than),
        "dry_run": not arguments.yes,
    }
    answer = ask(arguments, "POST", "/admin/cache/purge", json.dumps(which).encode())
    if not printed(arguments, answer):
        found = f"{shown(answer['entries'])} entries, {shown(answer['held_bytes'])} bytes"
        print(f"dropped {found}" if arguments.yes else f"would drop {found}; --yes does it")
    return 0


def _pause(arguments: Namespace) -> int:
    if not printed(arguments, ask(arguments, "POST", "/admin/cache/pause")):
        print("paused: every ingress passes it by; `rayllama cache resume` ends that")
    return 0


def _resume(arguments: Namespace) -> int:
    if not printed(arguments, ask(arguments, "POST", "/admin/cache/resume")):
        print("in use again")
    return 0


def table(answer: Mapping[str, Any]) -> str:
    """A line a count, a column for each shard and one for their sum."""
    shards = answer["shards"]
    columns = [("total", answer["total"])] if len(shards) > 1 else []
    columns += [(f"shard {index}", shard) for index, shard in enumerate(shards)]
    lines = [_line("", (head for head, _ in columns))]
    lines += [
        _line(" ".join(name), (shown(_value(counts, name)) for _, counts in columns))
        for name in _names([counts for _, counts in columns])
    ]
    return "\n".join(lines)


def _line(name: str, values: Iterable[str]) -> str:
    return "".join([f"{name:26}", *(f"{value:>14}" for value in values)])


def edge_table(nodes: Sequence[Mapping[str, Any]]) -> str:
    """A line a count, a column for each node's edge; last, why there is none."""
    names = dict.fromkeys(name for node in nodes for name in node if name not in ("node", "reason"))
    lines = [_line("", (f"edge {node['node']}" for node in nodes))]
    lines += [_line(name, (shown(node.get(name, "")) for node in nodes)) for name in names]
    lines += [f"edge {node['node']}: {node['reason']}" for node in nodes if node["reason"]]
    return "\n".join(lines)


_COLUMNS = ("hits", "misses", "bypasses", "joined", "tokens_saved", "gpu_s_saved")


def requests_table(requests: Mapping[str, Any]) -> str:
    """A line for all requests, each model and each tenant; then all by tier and reason."""
    rows = [("requests", requests)]
    rows += [(f"model {name}", row) for name, row in requests["models"].items()]
    rows += [(f"tenant {name}", row) for name, row in requests["tenants"].items()]
    lines = [_line("", _COLUMNS)]
    for name, row in rows:
        values = (row[column] for column in _COLUMNS)
        sums = (sum(value.values()) if isinstance(value, dict) else value for value in values)
        lines.append(_line(name, map(shown, sums)))
    for kind in ("hits", "misses", "bypasses"):
        lines += [f"{f'{kind} {name}':26}{shown(n):>14}" for name, n in requests[kind].items()]
    return "\n".join(lines)


def _names(columns: list[Any]) -> list[tuple[str, ...]]:
    """The lines' names: that of a count, or of each of those that are kept by name."""
    names: list[tuple[str, ...]] = []
    for name in dict.fromkeys(name for column in columns for name in column):
        values = [column[name] for column in columns if name in column]
        if isinstance(values[0], dict):
            names += [(name, *rest) for rest in _names(values)]
        else:
            names.append((name,))
    return names


def _value(counts: Mapping[str, Any], name: tuple[str, ...]) -> Any:
    value: Any = counts
    for step in name:
        value = value.get(step, {})
    return value or 0


def _seconds(given: str) -> float:
    try:
        return TypeAdapter(Seconds).validate_python(given)
    except ValidationError:
        raise ConfigError(f"--older-than {given!r}: not like 30m, 2h or 1d") from None


def _header(given: str) -> tuple[str, str]:
    name, colon, value = given.partition(":")
    if not colon:
        raise ConfigError(f"--header {given!r}: not like 'Cache-Control: no-cache'")
    return name.strip(), value.strip()


def _body(given: str) -> str:
    """The request, as it stands. Raises `ConfigError` where it isn't JSON."""
    try:
        if given == "-":
            given = sys.stdin.read()
        elif given.startswith("@"):
            given = Path(given[1:]).read_text("utf-8")
        json.loads(given)
    except (OSError, ValueError) as error:
        raise ConfigError(f"the request's body: {error}") from error
    return given
