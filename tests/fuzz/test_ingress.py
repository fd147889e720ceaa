"""The ingress under requests that nobody would write, on a real engine.

Whatever comes: an answer, in the dialect of its route, as the OpenAPI document says; no 5xx but one
that the engine itself gives, asked directly; and the next good request is answered as ever.
"""

import json
from collections import Counter
from typing import Any, cast

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, reject, settings
from schemathesis import Case, GenerationMode

from tests.fuzz.judge import TIMEOUT_S, Asked, Got, Judge, ask
from tests.fuzz.raw import raw_requests
from tests.fuzz.steer import GOOD, calm, grounded, steered, whole
from tests.web.described import DOCUMENT, Said, operations

pytestmark = pytest.mark.engine

SCHEMA = schemathesis.openapi.from_dict(steered())
INGRESS = [each for each in operations() if not each[1].startswith("/admin/")]
TAKING = [each for each in INGRESS if "requestBody" in DOCUMENT["paths"][each[1]][each[0].lower()]]


def fuzzing(examples: int, *, derandomize: bool = True) -> settings:
    """No shrinking: a case is short enough, and each costs an engine's answer."""
    return settings(
        max_examples=examples,
        derandomize=derandomize,
        database=None,
        deadline=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )


def fuzz(judge: Judge, verb: str, path: str, mode: GenerationMode, examples: int) -> int:
    """Ask cases of one operation; how many."""
    asked = 0

    @fuzzing(examples)
    @given(SCHEMA[path][verb].as_strategy(generation_mode=mode))
    def run(case: Case[Any]) -> None:
        nonlocal asked
        body = case.body
        if mode is GenerationMode.POSITIVE:
            body = grounded(path, whole(body)) if asked % 3 else whole(body)
        case.body = calm(path, body)
        request, got = sent(judge.stack.url, case)
        asked += 1
        assert judge.faults(request, got) == [], said_of(request, got)

    run()
    return asked


def sent(url: str, case: Case[Any]) -> tuple[Asked, Got]:
    """What went out, and what came back."""
    try:
        response = case.call(url, timeout=TIMEOUT_S, allow_redirects=False)
    except (requests.exceptions.InvalidHeader, requests.exceptions.InvalidURL, UnicodeError):
        reject()  # no client sends that
    out = response.request
    body = out.body or b""
    asked = Asked(
        str(out.method),
        out.path_url,
        [(name, str(value)) for name, value in out.headers.items()],
        body.encode() if isinstance(body, str) else cast("bytes", body),
    )
    headers = {name.lower(): ", ".join(values) for name, values in response.headers.items()}
    said = Said(response.status_code, headers.get("content-type", ""), response.content)
    return asked, Got(said, headers)


def said_of(request: Asked, got: Got) -> str:
    return f"{request.method} {request.target} {request.headers} {request.body[:2000]!r} → {got}"


def still_good(url: str) -> None:
    """The same good requests, answered anew by an engine."""
    for path, key in (("/api/embed", "embeddings"), ("/api/generate", "response")):
        body = json.dumps({**GOOD[path][1], "stream": False}).encode()
        got = ask(url, Asked("POST", path, [("Cache-Control", "no-cache")], body))
        assert got.said.status == 200, got
        assert json.loads(got.said.body)[key]


few_or_many = pytest.mark.parametrize("times", [1, pytest.param(12, marks=pytest.mark.slow)])
"""`make test` asks the same few cases every time, `make test-all` many more."""


@few_or_many
@pytest.mark.parametrize(("verb", "path"), INGRESS, ids=lambda part: part)
def test_what_the_document_allows(
    judge: Judge, cases: Counter[str], verb: str, path: str, times: int
) -> None:
    few = 20 if (verb, path) in TAKING else 3
    cases["allowed"] += fuzz(judge, verb, path, GenerationMode.POSITIVE, few * times)
    still_good(judge.stack.url)


@few_or_many
@pytest.mark.parametrize(("verb", "path"), TAKING, ids=lambda part: part)
def test_what_the_document_forbids(
    judge: Judge, cases: Counter[str], verb: str, path: str, times: int
) -> None:
    cases["forbidden"] += fuzz(judge, verb, path, GenerationMode.NEGATIVE, 20 * times)
    still_good(judge.stack.url)


@few_or_many
def test_what_no_document_speaks_of(judge: Judge, cases: Counter[str], times: int) -> None:
    cases["raw"] += fuzz_raw(judge, 500 * times)
    still_good(judge.stack.url)


def fuzz_raw(judge: Judge, examples: int) -> int:
    """Ask what a client library would not send; how many."""
    asked = 0

    @fuzzing(examples)
    @given(raw_requests())
    def run(request: Asked) -> None:
        nonlocal asked
        got = ask(judge.stack.url, request)
        asked += 1
        assert judge.faults(request, got) == [], said_of(request, got)

    run()
    return asked
