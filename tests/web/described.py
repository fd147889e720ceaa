"""An answer, held against the OpenAPI document: its status, its type, its body."""

import json
import re
from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

from jsonschema import Draft202012Validator
from jsonschema.protocols import Validator
from referencing import Registry
from referencing.jsonschema import DRAFT202012

from serve.web.openapi import document

DOCUMENT = document()
VERBS = ("get", "head", "post", "delete")
JSON, NDJSON, EVENTS = "application/json", "application/x-ndjson", "text/event-stream"
BYTES = "application/octet-stream"


class Said(NamedTuple):
    """What came back."""

    status: int
    content_type: str
    body: bytes

    @property
    def media(self) -> str:
        return self.content_type.partition(";")[0].strip().lower()


def operations() -> Iterator[tuple[str, str]]:
    for path, item in DOCUMENT["paths"].items():
        for verb in VERBS:
            if verb in item:
                yield verb.upper(), path


@cache
def template(path: str) -> str | None:
    """The document's path that an actual one is of."""
    for known in DOCUMENT["paths"]:
        inner = "(?s:.+)" if known.startswith("/v1/models/") else "[^/]+"
        if re.fullmatch(re.sub(r"\\{\w+\\}", inner, re.escape(known)), path):
            return str(known)
    return None


def _closed(schema: Any) -> Any:
    """Without fields that the document doesn't know: those of free objects are all free."""
    if isinstance(schema, list):
        return [_closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _closed(value) for key, value in schema.items()}
    if isinstance(closed.get("properties"), dict) and closed.get("type") == "object":
        closed["additionalProperties"] = False
    return closed


_RESOURCES = {
    "urn:open": DRAFT202012.create_resource(DOCUMENT),
    "urn:closed": DRAFT202012.create_resource(_closed(DOCUMENT)),
}
_REGISTRY: Registry[Any] = Registry().with_resources(_RESOURCES.items())


@cache
def _validator(pointer: str, base: str) -> Validator:
    return Draft202012Validator({"$ref": f"{base}#{pointer}"}, registry=_REGISTRY)


def _escaped(*parts: str) -> str:
    return "".join("/" + part.replace("~", "~0").replace("/", "~1") for part in parts)


def request_faults(verb: str, path: str, body: Any) -> list[str]:
    """What the document has against a request's JSON."""
    parts = ("paths", path, verb.lower(), "requestBody", "content", JSON, "schema")
    validator = _validator(_escaped(*parts), "urn:open")
    return [error.message[:300] for error in validator.iter_errors(body)]


def _response(path: str, verb: str, status: int) -> tuple[str, Any] | None:
    """A response's pointer, and what it is."""
    found = DOCUMENT["paths"][path][verb.lower()]["responses"].get(str(status))
    if found is None:
        return None
    if "$ref" in found:
        name = found["$ref"].rpartition("/")[2]
        return _escaped("components", "responses", name), DOCUMENT["components"]["responses"][name]
    return _escaped("paths", path, verb.lower(), "responses", str(status)), found


def answer_faults(verb: str, path: str, said: Said) -> list[str]:
    """What the document has against an answer to a verb of one of its paths."""
    found = _response(path, verb, said.status)
    if found is None:
        return [f"{said.status} is not in the document of {verb} {path}: {said.body[:300]!r}"]
    pointer, response = found
    contents = response.get("content", {})
    if not said.body and (
        verb == "HEAD" or not contents or (said.status == 403 and not said.media)
    ):
        return []
    if said.media not in contents:
        return [f"{said.media!r} is no type of {verb} {path} {said.status}: {said.body[:300]!r}"]
    validator = _validator(pointer + _escaped("content", said.media, "schema"), "urn:closed")
    try:
        values = list(_values(said))
    except ValueError as error:
        return [f"{verb} {path} {said.status}: {error}: {said.body[:300]!r}"]
    return [
        f"{verb} {path} {said.status}: {error.json_path}: {error.message[:600]}"
        for value in values
        for error in validator.iter_errors(value)
    ]


def _values(said: Said) -> Iterator[Any]:
    """What is told, piece by piece. Raises `ValueError` for what is not of its type."""
    if said.media == BYTES:
        return
    text = said.body.decode()
    if said.media == JSON:
        yield json.loads(text)
    elif said.media == NDJSON:
        if text and not text.endswith("\n"):
            raise ValueError("the last line is cut")
        yield from map(json.loads, text.splitlines())
    elif said.media == EVENTS:
        if not text.endswith("\n\n"):
            raise ValueError("the last event is cut")
        for event in text.removesuffix("\n\n").split("\n\n"):
            data = event.rpartition("data: ")[2]
            yield data if data == "[DONE]" else json.loads(data)
    else:
        yield text
