"""`rayllama fleet`: the pools of a running Rayllama, their replicas, and what those have loaded."""

from argparse import Namespace
from collections.abc import Mapping
from typing import Any

from serve.cli.admin import ask, printed, subcommand


def add_to(commands: Any) -> None:
    """The command and its arguments."""
    subcommand(commands, "fleet", "the pools, their replicas, and what is loaded where", _fleet)


def _fleet(arguments: Namespace) -> int:
    answer = ask(arguments, "GET", "/admin/fleet")
    if not printed(arguments, answer):
        print("\n\n".join(table(pool) for pool in answer["pools"]))
    return 0


def table(pool: Mapping[str, Any]) -> str:
    """A line for the pool, and one for each replica."""
    lines = [
        f"pool {pool['pool']}: {pool['in_flight']} of {pool['slots']} slots taken, "
        f"{pool['waiting']} waiting"
    ]
    for each in pool["replicas"]:
        loaded = [
            f"{runner['model']} ({runner['num_ctx']}, {runner['state']}, {runner['in_flight']})"
            for runner in each["loaded"]
        ]
        lines.append(
            f"  {each['replica']:12} {each['state']:20} {each['free']}/{each['slots']} free  "
            f"{each['engine_version']:10} {', '.join(loaded) or '-'}"
        )
        if each["last_error"]:
            lines.append(f"  {'':12} {each['last_error']}")
    return "\n".join(lines)
