"""The embedded engine against what a real Ollama answered, in the recorded order."""

import pytest

from tests.conformance.compare import differences
from tests.conformance.permitted import EMBEDDED, skipped
from tests.conformance.replay import Case, cases, replay
from tests.embedded.engines import EngineProcess

pytestmark = pytest.mark.engine

_FILES = ("misc", "models", "generate", "chat", "embed", "capabilities")


@pytest.mark.parametrize("case", cases(*_FILES), ids=lambda case: case.id)
def test_answers_as_ollama_did(recorded_engine: EngineProcess, case: Case) -> None:
    if reason := skipped(case.id, case.path):
        pytest.skip(reason)
    assert differences(case, replay(recorded_engine.url, case), EMBEDDED) == []
