"""The OpenAPI 3.1 document of all routes, made from the types that read their requests.

It is made once, when somebody asks for it: `GET /openapi.json`, or `rayllama openapi`.
"""

import asyncio
import json
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from http import HTTPStatus
from typing import Any

import msgspec
from msgspec import Struct
from starlette.types import Receive, Scope, Send

from serve.web.admin_operations import ADMIN
from serve.web.operations import BYTES, CLIENTS, JSON, NDJSON, Dialect, Operation, Said
from serve.web.reply import Reply
from serve.wire import anthropic_answer_types, openai_answer_types
from serve.wire.answer_types import Answer, StatusError
from serve.wire.fields import FIELDS
from serve.wire.gostruct import GoRequest
from serve.wire.schemas import REF, Schema, components, describe, name_of, reference, require

VERSION = "0.1.0"
"""Rayllama's own (`pyproject.toml`)."""

_CLIENTS = [{"url": "http://127.0.0.1:8000", "description": "Rayllama, for clients"}]
_ADMINS = [{"url": "http://127.0.0.1:8001", "description": "the admin API, on the head node"}]
_KEY: list[dict[str, list[str]]] = [{}, {"bearer": []}, {"apiKey": []}]
"""A key, where keys are configured (`auth.keys`)."""

_ERRORS: Mapping[Dialect, type[Answer]] = {
    "native": StatusError,
    "openai": openai_answer_types.ErrorResponse,
    "anthropic": anthropic_answer_types.ErrorResponse,
    "admin": StatusError,
}
_BUSY = (503, 529)
_PARAMETERS: Mapping[str, Schema] = {
    "digest": {"type": "string", "pattern": "^sha256[:-][0-9a-fA-F]{64}$"},
    "key": {"type": "string", "minLength": 1},
    "name": {"type": "string", "minLength": 1},
}
_TRANSCRIPTION: Schema = {
    "type": "object",
    "required": ["file", "model"],
    "properties": {
        "file": {"type": "string", "contentMediaType": "application/octet-stream"},
        **{name: {"type": "string"} for name in ("model", "language", "prompt", "response_format")},
    },
}
_HEADERS: Mapping[str, str] = {
    "x-request-id": "The request's id, in the log too.",
    "x-rayllama-cache": "`hit`, `miss` or `bypass`, and why.",
    "cache-status": "The same in HTTP's words (RFC 9211).",
    "age": "How old an answer from memory is, in seconds.",
    "retry-after": "Seconds after which it may go better.",
}
_ABOUT = """\
Ollama's API, OpenAI's and Anthropic's dialects of it, and on a port of its own the admin API.

Bodies are read as Ollama reads them: whatever the content type, keys without regard to case, a null
as if it were not there, unknown fields ignored or passed on. As in Ollama a path without a route is
a 404 and a route's other verb a 405, both `text/plain`; a path that differs from a route by slashes
alone is redirected; `OPTIONS` is answered everywhere; a refused Host or Origin is a 403 without a
body. An engine's error keeps its status, whatever it is."""


async def openapi(scope: Scope, _receive: Receive, send: Send) -> None:
    """`/openapi.json`: the document, as it is with every Rayllama of this version."""
    body = await asyncio.to_thread(_as_bytes)
    await Reply(200, JSON.encode(), body).send(send, head=scope["method"] == "HEAD")


@cache
def _as_bytes() -> bytes:
    return as_json().encode()


def as_json() -> str:
    """`configs/openapi.json`."""
    return json.dumps(document(), indent=1, ensure_ascii=False) + "\n"


def document() -> dict[str, Any]:
    """The document."""
    paths: dict[str, Any] = {}
    for operations, servers in ((CLIENTS, _CLIENTS), (ADMIN, _ADMINS)):
        for (verb, path), operation in operations.items():
            item = paths.setdefault(path, {"servers": servers} if servers is _ADMINS else {})
            item[verb.lower()] = _operation(verb, path, operation)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Rayllama", "version": VERSION, "description": _ABOUT},
        "servers": _CLIENTS,
        "paths": paths,
        "components": {
            "schemas": _schemas(),
            "responses": dict(_error_responses()),
            "parameters": {"CacheControl": _cache_control()},
            "headers": {
                name: {"description": text, "schema": {"type": "string"}}
                for name, text in _HEADERS.items()
            },
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "apiKey": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
    }


def _cache_control() -> Schema:
    text = "`no-cache`, `no-store`, `max-age=N`, `only-if-cached`, `stale-if-error=N` (RFC 9111)."
    schema = {"type": "string"}
    return {"name": "Cache-Control", "in": "header", "description": text, "schema": schema}


def _operation(verb: str, path: str, operation: Operation) -> Schema:
    parameters: list[Schema] = [
        {"name": name, "in": "path", "required": True, "schema": _PARAMETERS[name]}
        for name in _PARAMETERS
        if f"{{{name}}}" in path
    ]
    if operation.is_cached:
        parameters.append({"$ref": "#/components/parameters/CacheControl"})
    told: Schema = {
        "operationId": f"{verb.lower()}{path.translate(_PLAIN)}",
        "summary": operation.summary,
        "tags": [_tag(path, operation.dialect)],
        "security": [] if operation.is_open else _KEY,
    }
    if parameters:
        told["parameters"] = parameters
    if operation.body is not None:
        told["requestBody"] = _request_body(operation)
    told["responses"] = _responses(path, operation)
    return told


_PLAIN = str.maketrans("/.-", "___", "{}")


def _tag(path: str, dialect: Dialect) -> str:
    return "Ollama" if path.startswith("/api/") else {"plain": "probes"}.get(dialect, dialect)


def _request_body(operation: Operation) -> Schema:
    body = operation.body
    if isinstance(body, str):
        free = {"type": "object"} if body == JSON else {}
        schema: Schema = _TRANSCRIPTION if body.startswith("multipart") else free
        return {"required": True, "content": {body: {"schema": schema}}}
    is_needed = operation.dialect != "admin"
    return {"required": is_needed, "content": {JSON: {"schema": _schema(body)}}}


def _responses(path: str, operation: Operation) -> Schema:
    responses: Schema = {}
    for status, contents in operation.answers.items():
        names = ["x-request-id"] if operation.dialect != "admin" else []
        names += ["x-rayllama-cache", "cache-status", "age"] if operation.is_cached else []
        responses[str(status)] = {
            "description": HTTPStatus(status).phrase,
            "headers": {name: {"$ref": f"#/components/headers/{name}"} for name in names},
            "content": {media: _content(media, said) for media, said in contents.items()},
        }
    for status in operation.errors:
        name = "Refused" if operation.dialect == "plain" else _error_name(operation.dialect, status)
        responses[str(status)] = {"$ref": f"#/components/responses/{name}"}
    if "{" in path:
        responses |= {status: {"$ref": "#/components/responses/Moved"} for status in ("301", "307")}
        responses["404"] = _also_no_route(responses.get("404"), operation.dialect)
    return dict(sorted(responses.items()))


def _also_no_route(found: Schema | None, dialect: Dialect) -> Schema:
    """A parameter may be such that the path is another's, or nobody's."""
    content: Schema = {"text/plain": {"schema": {"const": "404 page not found"}}}
    if found is not None:
        content[JSON] = {"schema": reference(_ERRORS[dialect])}
    return {"description": "Nothing is there", "content": content}


def _content(media: str, said: Said) -> Schema:
    schema = _schema(said)
    if media == NDJSON:
        schema = {**schema, "description": "Each line."}
    if media == "text/event-stream":
        schema = {**schema, "description": "The data of each event."}
    return {"schema": schema}


def _schema(said: Any) -> Schema:
    """A type's, that of any of several, a constant's, or that of a text or of bytes."""
    if isinstance(said, tuple):
        return {"anyOf": [_schema(each) for each in said]}
    if isinstance(said, type) and issubclass(said, Struct):
        return {"$ref": REF + said.__name__}
    if isinstance(said, type):
        return reference(said)
    if said == JSON:
        return {"type": "object"}
    if said == BYTES:
        return {}
    return {"type": "string"} if "/" in said else {"const": said}


def _error_name(dialect: Dialect, status: int) -> str:
    kinds = dict.fromkeys(_BUSY, "Busy") | {400: "BadRequest", 403: "Forbidden"}
    return f"{dialect.capitalize()}{kinds.get(status, 'Error')}"


def _error_responses() -> Iterable[tuple[str, Schema]]:
    for dialect, kind in _ERRORS.items():
        content = {JSON: {"schema": reference(kind)}}
        text = "An error, in the route's dialect"
        header = {"retry-after": {"$ref": "#/components/headers/retry-after"}}
        # What Ollama finds before it looks at a dialect, it says in its own.
        early = {JSON: {"schema": {"anyOf": [reference(kind), reference(StatusError)]}}}
        early = content if kind is StatusError else early
        yield f"{dialect.capitalize()}Error", {"description": text, "content": content}
        yield (
            f"{dialect.capitalize()}BadRequest",
            {"description": f"{text}; natively if the body isn't zstd", "content": early},
        )
        yield (
            f"{dialect.capitalize()}Busy",
            {"description": "Too much, or not up", "headers": header, "content": content},
        )
        yield (
            f"{dialect.capitalize()}Forbidden",
            {
                "description": "Not with this key; without a body: a refused Host or Origin; "
                "natively: a model of Ollama's cloud",
                "content": early,
            },
        )
    yield "Refused", {"description": "A refused Host or Origin, without a body"}
    yield (
        "Moved",
        {
            "description": "A path that differs from a route's by slashes",
            "content": {"text/html": {"schema": {"type": "string"}}},
        },
    )


def _schemas() -> dict[str, Schema]:
    """Those of all that the operations name, and of all within them."""
    kinds: list[Any] = [*_ERRORS.values()]
    for operation in [*CLIENTS.values(), *ADMIN.values()]:
        kinds.append(operation.body)
        for contents in operation.answers.values():
            for said in contents.values():
                kinds += said if isinstance(said, tuple) else (said,)
    types: list[Any] = [kind for kind in dict.fromkeys(kinds) if isinstance(kind, type)]
    schemas = components(kind for kind in types if not issubclass(kind, Struct))
    for (_, path), operation in CLIENTS.items():
        if isinstance(operation.body, type) and issubclass(operation.body, GoRequest):
            name = name_of(operation.body)
            require(schemas, name, operation.required)
            describe(schemas, name, FIELDS.get(path, {}))
    structs = [kind for kind in types if issubclass(kind, Struct)]
    _, ours = _of_structs(structs, ref_template=REF + "{name}")
    return schemas | dict(sorted(ours.items()))


_of_structs: Callable[..., tuple[Any, dict[str, Schema]]] = msgspec.json.schema_components
