"""What changes models, on two replicas with a store each, against what a real Ollama answered."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from serve.conformance.compare import differences
from serve.conformance.permitted import RAYLLAMA
from serve.conformance.replay import Case, cases, replay
from tests.embedded.fake_registry import FakeRegistry, serving
from tests.twins import Twins

pytestmark = pytest.mark.engine

RECORDED = "127.0.0.1:5555"
"""Where the recorded registry was."""


@pytest.fixture(scope="module")
def managed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Twins]:
    with Twins(tmp_path_factory.mktemp("managed")) as twins:
        yield twins


@pytest.fixture(scope="module")
def pulled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Twins]:
    with Twins(tmp_path_factory.mktemp("pulled")) as twins:
        yield twins


@pytest.fixture(scope="module")
def registry() -> Iterator[FakeRegistry]:
    with serving() as registry:
        yield registry


@pytest.mark.parametrize("case", cases("models"), ids=lambda case: case.id)
def test_models_are_managed_as_by_ollama(managed: Twins, case: Case) -> None:
    assert differences(case, replay(managed.url, case), RAYLLAMA) == []


@pytest.mark.parametrize("case", cases("pull"), ids=lambda case: case.id)
def test_models_are_pulled_as_by_ollama(pulled: Twins, registry: FakeRegistry, case: Case) -> None:
    body = case.body and case.body.replace(RECORDED, registry.host)
    answer = replay(pulled.url, replace(case, body=body))
    frames = [frame.replace(registry.host, RECORDED) for frame in answer.frames]
    assert differences(case, replace(answer, frames=frames), RAYLLAMA) == []
