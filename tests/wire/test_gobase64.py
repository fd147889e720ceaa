import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.wire.gobase64 import corrupt_at
from tests.wire.golden import rows


@pytest.mark.parametrize("row", rows("base64"), ids=lambda row: repr(row["text"]))
def test_faults_are_where_go_finds_them(row: dict[str, Any]) -> None:
    at = corrupt_at(row["text"])
    error = None if at is None else f"illegal base64 data at input byte {at}"
    assert error == row["error"]


@given(st.binary())
def test_all_that_is_encoded_is_decoded(data: bytes) -> None:
    assert corrupt_at(base64.b64encode(data).decode()) is None
    assert corrupt_at(base64.encodebytes(data).decode()) is None
