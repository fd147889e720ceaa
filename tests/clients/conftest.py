"""What the clients talk to, and the matrix of what they could do."""

from collections import defaultdict
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from tests.cli.running import Up, config
from tests.clients.asked import IGNORED, TEMPLATES
from tests.conftest import embedded
from tests.embedded.weights import smollm2
from tests.stack import Pool, Stack

PACKAGES = {"ollama (JavaScript)": "0.6.4"}
"""Versions that Python does not know: those of js/package.json."""

SHOWN = {"passed": "yes", "skipped": "-", "failed": "**no**", IGNORED: "ignored"}
START, END = "<!-- clients: from `make clients` -->\n", "<!-- /clients -->"

cells: dict[str, dict[str, str]] = defaultdict(dict)


@pytest.fixture(scope="session")
def serving(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Pool | None]]:
    """A Rayllama with models that call tools and think: its URL, and its pool, unless it is
    `--live` by `rayllama up`."""
    folder = tmp_path_factory.mktemp("clients")
    models = []
    for name, template in TEMPLATES.items():
        file = folder / f"{name}.jinja"
        file.write_text(template)
        models.append({"name": name, "path": str(smollm2()), "template": str(file)})

    def change(data: Any) -> None:
        data["applications"][0]["args"]["embedded"] = {"models": models}

    if request.config.getoption("--live"):
        with Up(config(folder, change), folder) as up:
            yield up.until_ready().url, None
    else:
        settings = embedded(embedded={"models": models})
        with Stack(settings) as stack:
            yield stack.url, stack.pool


@pytest.fixture(scope="session")
def served(serving: tuple[str, Pool | None]) -> str:
    return serving[0]


@pytest.fixture(scope="session")
def pool(serving: tuple[str, Pool | None]) -> Pool | None:
    return serving[1]


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """A cell is its feature's worst outcome."""
    if "test_matrix.py::test_" not in report.nodeid or (
        report.when != "call" and report.outcome == "passed"
    ):
        return
    feature, _, given = report.nodeid.rpartition("::test_")[2].partition("[")
    client, _, form = given.rstrip("]").rpartition("-") if "-" in given else (given, "", "")
    if form not in ("whole", "streamed"):
        client, form = given.rstrip("]"), ""
    row = feature.replace("_", " ") + (", streamed" if form == "streamed" else "")
    if cells[row].get(client) != "failed":
        cells[row][client] = outcome(report)


def outcome(report: pytest.TestReport) -> str:
    """Passed, failed, skipped, or `IGNORED`."""
    if report.skipped and isinstance(report.longrepr, tuple) and IGNORED in report.longrepr[2]:
        return IGNORED
    return report.outcome


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print the matrix of a live run, and put it where `--matrix-into` says."""
    if not config.getoption("--live") or not cells:
        return
    terminalreporter.write_line("\n" + matrix())
    target = config.getoption("--matrix-into")
    if target:
        path = Path(target)
        head, _, rest = path.read_text().partition(START)
        path.write_text(head + START + "\n" + matrix() + "\n" + END + rest.partition(END)[2])


def matrix() -> str:
    """Markdown: a row a feature, a column a client."""
    clients = list(dict.fromkeys(client for row in cells.values() for client in row))
    heads = [f"{name} {PACKAGES.get(name) or version(name)}" for name in clients]
    lines = ["| | " + " | ".join(heads) + " |", "|---" * (len(clients) + 1) + "|"]
    for feature, row in cells.items():
        shown = [SHOWN[row[client]] if client in row else "" for client in clients]
        lines.append(f"| {feature} | " + " | ".join(shown) + " |")
    return "\n".join(lines) + "\n"
