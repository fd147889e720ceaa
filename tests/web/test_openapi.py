"""The OpenAPI document: it has the routes that there are, and what a real Ollama said fits it."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from serve.cli import main
from serve.conformance.replay import LONG, RECORDINGS, Case, cases
from serve.web.openapi import VERSION, as_json, document
from serve.web.routes import Verbs, admin_table, table
from serve.wire.fields import FIELDS
from tests.web.described import (
    DOCUMENT,
    JSON,
    Said,
    answer_faults,
    operations,
    request_faults,
    template,
)
from tests.web.front import Front

PROJECT = Path(__file__).parents[2]
RECORDED = cases(*sorted(path.stem for path in RECORDINGS.glob("*.jsonl") if path.stem != "cli"))


def routed(routes: Any) -> set[tuple[str, str]]:
    assert all(isinstance(route, Verbs) for route in routes)
    return {(verb, route.path_format) for route in routes for verb in route.methods}


def test_the_document_has_exactly_the_routes_that_there_are() -> None:
    nothing: Any = None  # the tables look into no service until they are asked
    ours, admins = routed(table(nothing)), routed(admin_table(nothing))
    assert not ours & admins
    assert set(operations()) == ours | admins
    on_admin_port = {
        path
        for path, item in DOCUMENT["paths"].items()
        if item.get("servers", DOCUMENT["servers"])[0]["url"].endswith(":8001")
    }
    assert on_admin_port == {path for _, path in admins}


def test_it_is_what_the_command_prints_and_what_is_committed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["openapi"]) == 0
    printed = capsys.readouterr().out
    assert printed == as_json() == (PROJECT / "configs" / "openapi.json").read_text()
    assert tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["version"] == VERSION


async def test_it_is_served_to_whoever_asks() -> None:
    front = Front([])
    told = await front.ask("GET", "/openapi.json")
    assert (told.status, json.loads(told.body)) == (200, document())
    assert told.headers[b"content-type"] == b"application/json"
    head = await front.ask("HEAD", "/openapi.json")
    assert (head.status, head.body) == (200, b"")
    assert head.headers[b"content-length"] == str(len(told.body)).encode()
    assert front.pool.calls == []


def test_its_schemas_are_schemas_and_its_references_lead_somewhere() -> None:
    for schema in DOCUMENT["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)
    for reference in set(references(DOCUMENT)):
        value: Any = DOCUMENT
        for part in reference.removeprefix("#/").split("/"):
            value = value[part]
    used = {reference.rpartition("/")[2] for reference in references(DOCUMENT)}
    assert set(DOCUMENT["components"]["schemas"]) <= used
    ids = [DOCUMENT["paths"][path][verb.lower()]["operationId"] for verb, path in operations()]
    assert len(ids) == len(set(ids))


def references(value: Any) -> list[str]:
    if isinstance(value, list):
        return [found for item in value for found in references(item)]
    if not isinstance(value, dict):
        return []
    own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
    return own + [found for item in value.values() for found in references(item)]


@pytest.mark.parametrize("route", [route for route in FIELDS if "audio" not in route])
def test_each_field_says_what_becomes_of_it(route: str) -> None:
    content = DOCUMENT["paths"][route]["post"]["requestBody"]["content"][JSON]
    name = content["schema"]["$ref"].rpartition("/")[2]
    told = json.dumps(DOCUMENT["components"]["schemas"], ensure_ascii=False)
    properties = DOCUMENT["components"]["schemas"][name]["properties"]
    for path, fate in FIELDS[route].items():
        text = f"{fate.what}: {fate.how}"
        if "." in path:
            assert text in told
        else:
            assert properties[path]["description"].startswith(text)


ASKED = [
    case
    for case in RECORDED
    if case.recorded.status == 200
    and case.body
    and template(case.path)
    and "blobs" not in case.path
]


@pytest.mark.parametrize("case", ASKED, ids=lambda case: case.id)
def test_what_an_ollama_took_is_a_request(case: Case) -> None:
    path = template(case.path)
    assert case.body is not None
    assert path is not None
    assert request_faults(case.method, path, json.loads(case.body.replace("{LONG}", LONG))) == []


def routes_of(case: Case) -> str | None:
    """The operation's path; None where there is none, for such are answered by the router."""
    path = template(case.path)
    return path if path is not None and (case.method, path) in set(operations()) else None


ABRIDGED = re.compile(r', ?"… \d+ more"')
"""What stands in a recording for the rest of a long list."""
ANSWERED = [case for case in RECORDED if routes_of(case) and case.recorded.framing != "cut"]


@pytest.mark.parametrize("case", ANSWERED, ids=lambda case: case.id)
def test_what_an_ollama_answered_is_an_answer(case: Case) -> None:
    path = routes_of(case)
    assert path is not None
    headers = {name.lower(): value for name, value in case.recorded.headers}
    status = case.recorded.status
    if path == "/v1/messages" and status == 503:
        status = 529  # as Anthropic says it: README, "What it does differently"
    body = ABRIDGED.sub("", case.recorded.body)
    said = Said(status, headers.get("content-type", ""), body.encode())
    assert answer_faults(case.method, path, said) == []


def test_an_answer_that_is_none_is_found() -> None:
    """The check that the others rely on."""
    good = Said(200, "application/json; charset=utf-8", b'{"version":"0.33.0"}')
    assert answer_faults("GET", "/api/version", good) == []
    bad = [
        good._replace(body=b'{"version":1}'),
        good._replace(body=b'{"version":"1","more":1}'),
        good._replace(body=b"{"),
        good._replace(content_type="text/plain"),
        good._replace(status=418),
        good._replace(status=500, body=b'{"error":{"message":"openai"}}'),
    ]
    assert all(answer_faults("GET", "/api/version", each) for each in bad)
    chat = Said(200, "text/event-stream", b'data: {"id":"x"}\n\n')
    assert answer_faults("POST", "/v1/chat/completions", chat)
    assert answer_faults("POST", "/v1/chat/completions", chat._replace(body=b"data: [DONE]\n"))
