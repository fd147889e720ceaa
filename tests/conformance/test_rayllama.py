"""Rayllama on the embedded engine against what a real Ollama answered, in the recorded order.

The engine is judged alone in `test_embedded`; what the ingress adds must change nothing. Replayed
twice, so that the second time what was kept comes from memory.
"""

from collections.abc import Iterator

import pytest

from serve.conformance.compare import differences
from serve.conformance.permitted import RAYLLAMA, skipped, writes
from serve.conformance.replay import FILES, Answer, Case, cases, replay
from serve.settings import Settings
from tests.conformance.conftest import models
from tests.stack import Stack

pytestmark = pytest.mark.engine


UNKEPT = {"generate/long_prompt_truncated": "its answer is empty"}


def left_out(case: Case) -> str | None:
    if writes(case.path):
        return "what changes models is replayed on two replicas, in test_managing"
    return skipped(case.id, case.path, RAYLLAMA)


@pytest.fixture(scope="session")
def recorded_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("rayllama")
    settings = Settings.model_validate(
        {
            "inference": {"num_gpus": 0, "slots": 2, "context_length": 2048, "keep_alive": "5m"},
            "embedded": {
                "threads": 1,
                "models": models(folder),
                "store": str(folder.parent / "store"),
            },
            "cache": {"lookup_timeout_s": 5, "lease_s": 5},
        }
    )
    with Stack(settings) as stack:
        yield stack


@pytest.mark.parametrize("case", cases(*FILES), ids=lambda case: case.id)
def test_answers_as_ollama_did(recorded_stack: Stack, case: Case) -> None:
    if reason := left_out(case):
        pytest.skip(reason)
    assert differences(case, replay(recorded_stack.url, case), RAYLLAMA) == []


def asked(*files: str) -> list[Case]:
    return [case for case in cases(*files) if case.method == "POST"]


@pytest.mark.parametrize(
    "case", asked("generate", "chat", "embed", "openai", "anthropic"), ids=lambda case: case.id
)
def test_answers_the_same_from_memory(recorded_stack: Stack, case: Case) -> None:
    if reason := left_out(case):
        pytest.skip(reason)
    first, second = (replay(recorded_stack.url, case) for _ in range(2))
    assert differences(case, second, RAYLLAMA) == []
    if is_kept(case, first):
        assert "; hit" in cache_status(second)


def is_kept(case: Case, answer: Answer) -> bool:
    """Does it come from memory, or was it asked of the engine in order to be kept? A whole answer
    also says `stored`; a stream's head can't."""
    told = cache_status(answer)
    return answer.status == 200 and case.id not in UNKEPT and ("; hit" in told or "; key=" in told)


def cache_status(answer: Answer) -> str:
    return "".join(value for name, value in answer.headers if name.lower() == "cache-status")
