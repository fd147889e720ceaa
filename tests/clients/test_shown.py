"""What the matrix makes of a test's outcome."""

import pytest

from tests.clients.asked import IGNORED
from tests.clients.conftest import SHOWN, outcome


@pytest.mark.parametrize(
    ("reason", "shown"), [("the client has no such call", "-"), (IGNORED, "ignored")]
)
def test_what_a_library_lacks_is_not_what_ollama_ignores(reason: str, shown: str) -> None:
    report = pytest.TestReport(
        "test_matrix.py::test_json_schema[anthropic-whole]",
        ("test_matrix.py", 1, "test_json_schema"),
        {},
        "skipped",
        ("test_matrix.py", 1, f"Skipped: {reason}"),
        "call",
    )
    assert SHOWN[outcome(report)] == shown
