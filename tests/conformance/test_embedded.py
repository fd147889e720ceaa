"""The embedded engine against what a real Ollama answered, in the recorded order."""

import pytest

from serve.conformance.compare import differences
from serve.conformance.permitted import EMBEDDED, skipped, writes
from serve.conformance.replay import Case, cases, replay
from tests.embedded.engines import EngineProcess

pytestmark = pytest.mark.engine

_FILES = ("misc", "models", "generate", "chat", "embed", "capabilities")


@pytest.mark.parametrize("case", cases(*_FILES), ids=lambda case: case.id)
def test_answers_as_ollama_did(recorded_engine: EngineProcess, case: Case) -> None:
    if reason := skipped(case.id, case.path, EMBEDDED):
        pytest.skip(reason)
    if writes(case.path):
        pytest.skip("what changes models is replayed on two replicas, in test_managing")
    assert differences(case, replay(recorded_engine.url, case), EMBEDDED) == []
