"""`rayllama cache`: what a running Rayllama's cache holds, what it would say, and its purge.

Speaks to the admin API (`admin.host`, `admin.port`), straight to the address, through no proxy.
"""

import http.client
import json
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import TypeAdapter, ValidationError

from serve.errors import ConfigError
from serve.settings import Seconds

URL = "http://127.0.0.1:8001"
_WITHIN_S = 120.0
_JSON = {"content-type": "application/json"}


def add_to(commands: Any) -> None:
    """The command, its subcommands and their arguments."""
    parser = commands.add_parser("cache", help="what the cache holds, would say, and forgets")
    whats = parser.add_subparsers(required=True, metavar="WHAT")

    _subcommand(whats, "stats", "what each shard holds and has done", _stats)

    explains = _subcommand(whats, "explain", "what would become of a request, and why", _explain)
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

    purges = _subcommand(whats, "purge", "drop entries; without --yes, only count them", _purge)
    purges.add_argument("--model", default="", help="those of a model, like smollm2:135m")
    purges.add_argument("--tenant", default="", help="those of a tenant")
    purges.add_argument("--entry", default="", metavar="KEY", help="one, as `explain` names it")
    purges.add_argument(
        "--older-than", default="0", metavar="TIME", help="stored so long ago, like 30m, 2h, 1d"
    )
    purges.add_argument("--yes", action="store_true", help="do it")


def _subcommand(
    whats: Any, name: str, does: str, command: Callable[[Namespace], int]
) -> ArgumentParser:
    parser: ArgumentParser = whats.add_parser(name, help=does)
    parser.add_argument("--url", default=URL, help=f"where the admin API is (default: {URL})")
    parser.add_argument("--key", default="", help="an admin's key, where the config has keys")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.set_defaults(command=command)
    return parser


def _stats(arguments: Namespace) -> int:
    answer = _ask(arguments, "GET", "/admin/cache/stats")
    if not _printed(arguments, answer):
        print(table(answer))
        print("\n" + requests_table(answer["requests"]))
    return 0


def _explain(arguments: Namespace) -> int:
    headers = dict(_header(given) for given in arguments.header)
    # Put together as text, so that the request arrives to the letter.
    rest = json.dumps({"path": arguments.path, "headers": headers, "tenant": arguments.tenant})
    text = f'{rest[:-1]}, "body": {_body(arguments.body)}}}'
    answer = _ask(arguments, "POST", "/admin/cache/explain", text.encode())
    if _printed(arguments, answer):
        return 0
    verdict, reason = answer.pop("verdict"), answer.pop("reason")
    print(f"{verdict}: {reason}" if reason else verdict)
    for name, value in answer.items():
        if value not in ("", None):
            print(f"  {name:13} {_shown(value)}")
    return 0


def _purge(arguments: Namespace) -> int:
    which = {
        "model": arguments.model,
        "tenant": arguments.tenant,
        "key": arguments.entry,
        "older_than_s": _seconds(arguments.older_than),
        "dry_run": not arguments.yes,
    }
    answer = _ask(arguments, "POST", "/admin/cache/purge", json.dumps(which).encode())
    if not _printed(arguments, answer):
        found = f"{_shown(answer['entries'])} entries, {_shown(answer['held_bytes'])} bytes"
        print(f"dropped {found}" if arguments.yes else f"would drop {found}; --yes does it")
    return 0


def table(answer: Mapping[str, Any]) -> str:
    """A line a count, a column for each shard and one for their sum."""
    shards = answer["shards"]
    columns = [("total", answer["total"])] if len(shards) > 1 else []
    columns += [(f"shard {index}", shard) for index, shard in enumerate(shards)]
    lines = ["".join([f"{'':26}", *(f"{head:>14}" for head, _ in columns)])]
    for name in _names([counts for _, counts in columns]):
        values = (_shown(_value(counts, name)) for _, counts in columns)
        lines.append("".join([f"{' '.join(name):26}", *(f"{value:>14}" for value in values)]))
    return "\n".join(lines)


_COLUMNS = ("hits", "misses", "bypasses", "joined", "tokens_saved", "gpu_s_saved")


def requests_table(requests: Mapping[str, Any]) -> str:
    """A line for all requests, each model and each tenant; then all by tier and reason."""
    rows = [("requests", requests)]
    rows += [(f"model {name}", row) for name, row in requests["models"].items()]
    rows += [(f"tenant {name}", row) for name, row in requests["tenants"].items()]
    lines = ["".join([f"{'':26}", *(f"{head:>14}" for head in _COLUMNS)])]
    for name, row in rows:
        values = (row[column] for column in _COLUMNS)
        sums = (sum(value.values()) if isinstance(value, dict) else value for value in values)
        lines.append("".join([f"{name:26}", *(f"{_shown(value):>14}" for value in sums)]))
    for kind in ("hits", "misses", "bypasses"):
        lines += [f"{f'{kind} {name}':26}{_shown(n):>14}" for name, n in requests[kind].items()]
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


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.1f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


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


def _printed(arguments: Namespace, answer: Any) -> bool:
    if arguments.json:
        print(json.dumps(answer))
    return bool(arguments.json)


def _ask(arguments: Namespace, method: str, path: str, body: bytes = b"") -> Any:
    """The answer. Raises `ConfigError` if there is none, or a refusal."""
    parts = urlsplit(arguments.url)
    connection = http.client.HTTPConnection(
        parts.hostname or "127.0.0.1", parts.port or 80, timeout=_WITHIN_S
    )
    headers = _JSON | ({"authorization": f"Bearer {arguments.key}"} if arguments.key else {})
    try:
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        return _understood(arguments.url, response.status, response.read())
    except (OSError, http.client.HTTPException) as error:
        why = str(error) or type(error).__name__
        raise ConfigError(
            f"no admin API answers at {arguments.url} ({why}): start Rayllama (`rayllama up`), run "
            "this on its head node, or give --url as `admin.host` "
            "and `admin.port` of the config say"
        ) from error
    finally:
        connection.close()


def _understood(url: str, status: int, body: bytes) -> Any:
    try:
        answer = json.loads(body)
    except ValueError:
        raise ConfigError(f"{url} is no admin API of Rayllama's (status {status})") from None
    if status == 200:
        return answer
    error = answer.get("error") if isinstance(answer, dict) else None
    more = "; give an admin's key with --key" if status in (401, 403) else ""
    raise ConfigError(f"{url} refused it ({status}): {error}{more}")
