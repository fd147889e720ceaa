"""One engine for the tests that don't break it."""

from collections.abc import Generator

import pytest

from tests.embedded.engines import EngineProcess, running


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Generator[EngineProcess, None, None]:
    folder = tmp_path_factory.mktemp("engine")
    with running(folder, OLLAMA_NUM_PARALLEL="2", OLLAMA_CONTEXT_LENGTH="1024") as engine:
        yield engine
