"""A real Ollama against the recordings: they are true, and the comparer isn't blind or strict.

And Rayllama on one, by `rayllama conformance --write` as a user runs it. Needs `ollama` 0.33 on
PATH.
"""

import json
from collections.abc import Generator

import pytest

from serve.cli import main
from serve.conformance import suite
from serve.conformance.compare import differences
from serve.conformance.permitted import OLLAMA, RAYLLAMA_ON_OLLAMA
from serve.conformance.replay import FILES, Case, cases, replay
from serve.settings import Settings
from tests.conformance.real import NEEDED, serving, store
from tests.stack import Stack

pytestmark = NEEDED


@pytest.fixture(scope="module")
def ollama(tmp_path_factory: pytest.TempPathFactory) -> Generator[str, None, None]:
    with serving(tmp_path_factory.mktemp("ollama")) as url:
        yield url


@pytest.mark.parametrize("case", cases(*FILES), ids=lambda case: case.id)
def test_answers_as_it_did(ollama: str, case: Case) -> None:
    assert differences(case, replay(ollama, case), OLLAMA) == []


def test_rayllama_on_it_conforms(
    tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is left out, and nothing differs that may only differ on the embedded engine."""
    folder = tmp_path_factory.mktemp("under")
    with serving(folder):
        pass
    settings = Settings.model_validate(
        {
            "inference": {
                "engine": "ollama",
                "num_gpus": 0,
                "slots": 2,
                "context_length": 2048,
                "keep_alive": "5m",
                "models_dir": str(store(folder)),
            },
            "cache": {"lookup_timeout_s": 5, "lease_s": 5},
        }
    )
    with Stack(settings) as stack:
        assert suite.profile_of(stack.url) is RAYLLAMA_ON_OLLAMA
        status = main(["conformance", stack.url, "--write", "--json"])
    *faults, last = capsys.readouterr().out.splitlines()
    assert (status, faults) == (0, [])
    figures = json.loads(last)
    assert figures["profile"] == "rayllama-on-ollama"
    assert figures["passed"] == figures["cases"] == len(cases(*FILES))
