"""What every test shares: AnyIO's tests run on asyncio, as Ray Serve does."""

from collections.abc import Iterator
from hashlib import sha256

import pytest
from hypothesis import settings

from serve.settings import Settings
from tests.stack import Stack

KEY = "a key of one's own"

# Generated examples may take as long as a busy machine needs.
settings.register_profile("rayllama", deadline=None)
settings.load_profile("rayllama")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of tests/clients, which pytest reads here alone."""
    parser.addoption("--live", action="store_true", help="clients talk to a `rayllama up`")
    parser.addoption("--matrix-into", default="", help="the file to put the clients' matrix into")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def embedded(**more: object) -> Settings:
    """The embedded engine as `configs/local.yaml` has it, and patience for a busy machine."""
    inference = {"engine": "embedded", "num_gpus": 0, "slots": 4, "models": ["smollm2:135m"]}
    cache = {"lookup_timeout_s": 5, "lease_s": 5}
    return Settings.model_validate({"inference": inference, "cache": cache, **more})


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """Rayllama without Ray on the embedded engine: two ingresses, and a third that wants a key."""
    keyed = {"keys": [{"sha256": sha256(KEY.encode()).hexdigest(), "tenant": "theirs"}]}
    with Stack(embedded(), [embedded(), embedded(), embedded(auth=keyed)]) as running:
        yield running
