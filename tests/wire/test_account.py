import pytest

from serve.conformance.replay import cases
from serve.errors import BadRequest
from serve.wire.account import ACCOUNT, NEEDS_BODY, told

RECORDED = {(case.method, case.path): case.recorded for case in cases("misc")}


@pytest.mark.parametrize(("method", "path"), [("GET", "/api/status"), ("POST", "/api/me")])
def test_the_recorded_answers(method: str, path: str) -> None:
    answer, recorded = told(method, path, b"{}"), RECORDED[method, path]
    assert (answer.status, answer.body.decode()) == (recorded.status, recorded.body)


def test_a_search_needs_a_body() -> None:
    for path in NEEDS_BODY:
        assert told("POST", path, b"{}").status == 403
        with pytest.raises(BadRequest, match="missing request body"):
            told("POST", path, b" \n")


def test_each_path_has_one_verb() -> None:
    paths = [path for _, path in ACCOUNT]
    assert len(paths) == len(set(paths))
