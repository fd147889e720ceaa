"""The OpenAPI document of all routes, as `GET /openapi.json` tells it."""

from argparse import Namespace
from typing import Any

from serve.web.openapi import as_json


def add_to(commands: Any) -> None:
    """`rayllama openapi`."""
    shows = commands.add_parser("openapi", help="the OpenAPI document of all routes")
    shows.set_defaults(command=_run)


def _run(_: Namespace) -> int:
    print(as_json(), end="")
    return 0
