"""Schemas that Ollama refuses, in its llama.cpp's words (recorded from Ollama 0.33)."""

from typing import Any

import pytest

from serve.embedded.schemas import conversion_fault

ANCHORED = "Pattern must start with '^' and end with '$'"


@pytest.mark.parametrize(
    ("schema", "faults"),
    [
        ({"type": "x"}, ['Unrecognized schema: {"type":"x"}']),
        ({"type": 5}, ['Unrecognized schema: {"type":5}']),
        ({"type": {}}, ['Unrecognized schema: {"type":{}}']),
        ({"type": ["string", "x"]}, ['Unrecognized schema: {"type":"x"}']),
        ({"type": "object", "properties": 5}, ["Unrecognized schema: 5"]),
        ({"properties": {"a": {"type": "é"}}}, ['Unrecognized schema: {"type":"é"}']),
        ({"additionalProperties": {"type": "x"}}, ['Unrecognized schema: {"type":"x"}']),
        ({"type": "array", "items": {"type": "x"}}, ['Unrecognized schema: {"type":"x"}']),
        ({"prefixItems": [{"type": "x"}, True]}, 2),
        ({"anyOf": [{"type": "x"}, {"pattern": "a"}]}, 2),
        ({"allOf": [{"properties": {"a": {"type": "x"}}}]}, 1),
        ({"allOf": [{"anyOf": [{"$ref": "#/$defs/a"}]}], "$defs": {"a": {"properties": [5]}}}, 1),
        ({"pattern": "("}, [ANCHORED]),
        ({"type": "string", "pattern": "^a"}, [ANCHORED]),
        ({"$ref": "http://x/y"}, ["Unsupported ref: http://x/y"]),
        (
            {"$ref": "#/nope"},
            ['Error resolving ref #/nope: nope not in {"$ref":"#/nope"}'],
        ),
        ({"$ref": "#/a/1", "a": [{}]}, ["Error resolving ref #/a/1: 1 not in [{}]"]),
        ({"$ref": "#/a/0", "a": [{"type": "x"}]}, ['Unrecognized schema: {"type":"x"}']),
    ],
)
def test_what_can_not_be_followed_is_refused(schema: Any, faults: list[str] | int) -> None:
    fault = conversion_fault(schema)
    assert fault is not None
    start, *told = fault.splitlines()
    assert start == "JSON schema conversion failed:"
    assert told == faults if isinstance(faults, list) else len(told) == faults


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"title": "x"},
        {"type": None},
        {"type": "null"},
        {"type": ["string", "null"]},
        {"not": {"type": "x"}},
        {"allOf": [{"type": "x"}, 5]},
        {"enum": []},
        {"const": None, "type": "x"},
        {"type": "integer", "pattern": "a"},
        {"type": "string", "pattern": "^a$"},
        {"type": "object", "additionalProperties": False},
        {"type": "array", "items": [{}]},
        {"$ref": "https://elsewhere.example/schema"},
        {"$ref": "#/$defs/a", "$defs": {"a": {"properties": {"next": {"$ref": "#/$defs/a"}}}}},
        {"allOf": [{"$ref": "#/$defs/a"}], "$defs": {"a": {"$ref": "#/$defs/a"}}},
    ],
)
def test_what_it_does_not_look_at_is_no_fault(schema: Any) -> None:
    assert conversion_fault(schema) is None


def test_depth_is_no_matter() -> None:
    schema: Any = {"type": "x"}
    for _ in range(5000):
        schema = {"type": "array", "items": schema}
    fault = conversion_fault(schema)
    assert fault is not None
    assert fault.endswith('Unrecognized schema: {"type":"x"}')
