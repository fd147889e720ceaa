"""`rayllama conformance URL`: does a server answer as a real Ollama did?"""

import json
import sys
from argparse import Namespace
from typing import Any
from urllib.parse import urlsplit

from serve.conformance import suite
from serve.conformance.permitted import PROFILES
from serve.errors import ConfigError


def add_to(commands: Any) -> None:
    """The command and its arguments."""
    parser = commands.add_parser(
        "conformance",
        help="hold a server's answers against a real Ollama's",
        description=(
            "Sends what a real Ollama 0.33 was once asked, and compares: status, headers, framing, "
            "keys, types and order. The server should be a fresh one with smollm2:135m and "
            "all-minilm, that nobody else uses. Exit status 1 if one differs where it may not."
        ),
    )
    parser.add_argument("url", metavar="URL", help="like http://127.0.0.1:11434")
    parser.add_argument(
        "--write", action="store_true", help="also what changes its models; some of them stay"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--key", default="", help="an API key, where the server asks for one")
    parser.add_argument(
        "--profile", choices=PROFILES, help="who answers, and so what may differ (default: found)"
    )
    parser.set_defaults(command=_conformance)


def _conformance(arguments: Namespace) -> int:
    url = arguments.url.rstrip("/")
    if urlsplit(url).scheme not in ("http", "https"):
        raise ConfigError(f"{arguments.url} is no http:// or https:// URL")
    try:
        given = arguments.profile
        profile = PROFILES[given] if given else suite.profile_of(url, arguments.key)
        print(f"{url} is held to what `{profile.name}` may do", file=sys.stderr)
        report = suite.run(url, profile, write=arguments.write, key=arguments.key, say=print)
    except OSError as error:
        raise ConfigError(f"nothing answers at {url}: {error}") from error
    if arguments.json:
        print(json.dumps(_figures(report, profile.name)))
    else:
        print("\n".join(_table(report)))
    return 1 if report.failed else 0


def _figures(report: suite.Report, profile: str) -> dict[str, Any]:
    return {
        "profile": profile,
        "cases": report.cases,
        "passed": report.passed,
        "failed": len(report.failed),
        "skipped": len(report.skipped),
        "permitted_differences": len(report.permitted),
        "permitted": dict(report.permitted),
    }


def _table(report: suite.Report) -> list[str]:
    why: dict[str, int] = {}
    for reason in report.skipped.values():
        why[reason] = why.get(reason, 0) + 1
    return [
        f"{report.cases} cases: {report.passed} passed, {len(report.failed)} failed, "
        f"{len(report.skipped)} skipped",
        *(f"  skipped {count:4}  {reason}" for reason, count in why.items()),
        *(f"  permitted {count:4}  {reason}" for reason, count in report.permitted.items()),
    ]
