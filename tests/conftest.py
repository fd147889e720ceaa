"""What every test shares: AnyIO's tests run on asyncio, as Ray Serve does."""

import pytest


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
