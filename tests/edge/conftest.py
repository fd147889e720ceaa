"""The real HAProxy, started once a module."""

from collections.abc import Iterator

import pytest

from tests.edge.proxy import Proxy, running


@pytest.fixture(scope="module")
def proxy() -> Iterator[Proxy]:
    yield from running()
