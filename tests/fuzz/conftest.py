"""One stack for the whole fuzz, and how many cases it was asked."""

import json
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.conftest import embedded
from tests.fuzz.judge import Asked, Judge, ask
from tests.fuzz.steer import CHATS, SHORT
from tests.stack import Stack

CASES: Counter[str] = Counter()


@pytest.fixture(scope="session")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Judge]:
    """The embedded engine with a small context, and a store of its own that may be written to."""
    more = {"embedded": {"store": str(tmp_path_factory.mktemp("fuzzed-store"))}}
    settings = embedded(**more)
    inference = settings.inference.model_copy(update={"context_length": 256})
    with Stack(settings.model_copy(update={"inference": inference})) as stack:
        made = {"model": SHORT, "from": CHATS, "parameters": {"num_predict": 2}, "stream": False}
        got = ask(stack.url, Asked("POST", "/api/create", body=json.dumps(made).encode()))
        assert got.said.status == 200, got
        judge = Judge(stack)
        yield judge
        CASES.update({f"status {status}": n for status, n in judge.statuses.items()})


@pytest.fixture
def cases(request: pytest.FixtureRequest) -> Counter[str]:
    return CASES


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """So that whoever has run it knows how much it was."""
    if CASES:
        told = ", ".join(f"{name}: {count}" for name, count in sorted(CASES.items()))
        terminalreporter.write_sep("-", "fuzz")
        terminalreporter.write_line(f"cases: {told}")
