"""The admin API as the command line asks it: straight to the address, through no proxy."""

import http.client
import json
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from serve.errors import ConfigError

URL = "http://127.0.0.1:8001"
_WITHIN_S = 120.0


def subcommand(
    whats: Any, name: str, does: str, command: Callable[[Namespace], int]
) -> ArgumentParser:
    """One of `rayllama cache`, with the arguments that all of them have."""
    parser: ArgumentParser = whats.add_parser(name, help=does)
    parser.add_argument("--url", default=URL, help=f"where the admin API is (default: {URL})")
    parser.add_argument("--key", default="", help="an admin's key, where the config has keys")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.set_defaults(command=command)
    return parser


def printed(arguments: Namespace, answer: Any) -> bool:
    """Is JSON wanted? Then it is printed here."""
    if arguments.json:
        print(json.dumps(answer))
    return bool(arguments.json)


def shown(value: Any) -> str:
    """A number with its thousands apart."""
    if isinstance(value, float):
        return f"{value:,.1f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def ask(arguments: Namespace, method: str, path: str, body: "bytes | BinaryIO" = b"") -> Any:
    """The answer. Raises `ConfigError` if there is none, or a refusal."""
    with asked(arguments, method, path, body) as response:
        return _understood(arguments.url, response.status, response.read())


@contextmanager
def asked(
    arguments: Namespace, method: str, path: str, body: "bytes | BinaryIO" = b""
) -> Generator[http.client.HTTPResponse]:
    """The answer to be read. Raises `ConfigError` if there is none, or it is cut off."""
    parts = urlsplit(arguments.url)
    connection = http.client.HTTPConnection(
        parts.hostname or "127.0.0.1", parts.port or 80, timeout=_WITHIN_S
    )
    is_file = not isinstance(body, bytes)
    headers = {"content-type": "application/octet-stream" if is_file else "application/json"}
    if arguments.key:
        headers["authorization"] = f"Bearer {arguments.key}"
    try:
        connection.request(method, path, body, headers, encode_chunked=is_file)
        yield connection.getresponse()
    except (OSError, http.client.HTTPException) as error:
        why = str(error) or type(error).__name__
        raise ConfigError(
            f"no admin API answers at {arguments.url} ({why}): start Rayllama (`rayllama up`), run "
            "this on its head node, or give --url as `admin.host` "
            "and `admin.port` of the config say"
        ) from error
    finally:
        connection.close()


def refused(arguments: Namespace, response: http.client.HTTPResponse) -> None:
    """Raises `ConfigError` unless it was granted; what was, is left to be read."""
    if response.status != 200:
        _understood(arguments.url, response.status, response.read())


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
