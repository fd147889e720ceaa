"""What each route takes and answers: the table that the OpenAPI document is made from.

A test holds it against the tables of `serve.web.routes`, both ways. Statuses that an engine's own
error may have are among those told; one passes on whatever it is.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from msgspec import Struct

from serve.wire import answer_types as api
from serve.wire import anthropic_answer_types as anthropic
from serve.wire import native, openai_embeddings, orders
from serve.wire import openai_answer_types as openai
from serve.wire import responses_answer_types as responses
from serve.wire.anthropic_types import MessagesRequest
from serve.wire.gostruct import GoRequest
from serve.wire.openai_completions import CompletionRequest
from serve.wire.openai_types import ChatCompletionRequest
from serve.wire.responses_types import ResponsesRequest

JSON, NDJSON, EVENTS = "application/json", "application/x-ndjson", "text/event-stream"
TEXT, BYTES, FORM = "text/plain", "application/octet-stream", "multipart/form-data"

Dialect = Literal["native", "openai", "anthropic", "admin", "plain"]
Kind = type[api.Answer] | type[Struct]
Said = Kind | tuple[Kind | str, ...] | str | None
"""A type, one of several types or constants, a text of a media type's own, or no body."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One verb of one route.

    `answers`: what it says when all is well, by status and media type. `errors`: the statuses of
    errors, which have the dialect's form. `required`: the fields without which it is refused.
    """

    summary: str
    answers: Mapping[int, Mapping[str, Said]]
    dialect: Dialect = "native"
    body: type[GoRequest] | type[Struct] | str | None = None
    required: tuple[str, ...] = ()
    errors: tuple[int, ...] = ()
    is_cached: bool = False
    is_open: bool = False
    """Is it answered without a key?"""


def said_in_json(kind: Said) -> dict[int, dict[str, Said]]:
    """A 200 with one object."""
    return {200: {JSON: kind}}


def _lines(kind: Kind) -> dict[int, dict[str, Said]]:
    return {200: {JSON: kind, NDJSON: (kind, api.StatusError)}}


_TEXT: dict[int, dict[str, Said]] = {200: {TEXT: TEXT}}
_NOTHING: dict[int, dict[str, Said]] = {200: {}}
_DONE = "[DONE]"

ASKED = (401, 403, 500, 503, 504)
"""No key, a refused Host; an engine that failed, is away or full, or that let the deadline pass."""
TAKEN = (400, *ASKED, 413)
INFERRED = (*TAKEN, 404, 501)
MANAGED = (*TAKEN, 404)
TOLD = (401, 403, 413)


def _plain(summary: str, answers: Mapping[int, Mapping[str, Said]] = _TEXT) -> Operation:
    return Operation(summary, answers, "plain", errors=(403,), is_open=True)


_PLAIN = {
    "/": _plain("Ollama is running"),
    "/healthz": _plain("Does this process answer?"),
    "/readyz": _plain("Does an engine answer?", {**_TEXT, 503: {TEXT: TEXT}}),
    "/openapi.json": _plain("This document", {200: {JSON: JSON}}),
}
PLAIN = {(verb, path): told for path, told in _PLAIN.items() for verb in ("GET", "HEAD")}

NATIVE: Mapping[tuple[str, str], Operation] = {
    **dict.fromkeys(
        (("GET", "/api/version"), ("HEAD", "/api/version")),
        Operation("Ollama's version", said_in_json(api.VersionResponse), errors=ASKED),
    ),
    **dict.fromkeys(
        (("GET", "/api/tags"), ("HEAD", "/api/tags")),
        Operation("The models of all replicas", said_in_json(api.ListResponse), errors=ASKED),
    ),
    ("GET", "/api/ps"): Operation(
        "What is loaded, a row for each model", said_in_json(api.ProcessResponse), errors=ASKED
    ),
    ("POST", "/api/show"): Operation(
        "A model in full", said_in_json(api.ShowResponse), body=native.ShowRequest, errors=MANAGED
    ),
    ("POST", "/api/pull"): Operation(
        "Have a model fetched to every store",
        _lines(api.ProgressResponse),
        body=orders.PullRequest,
        errors=MANAGED,
    ),
    ("POST", "/api/push"): Operation(
        "Have a model brought to a registry",
        _lines(api.ProgressResponse),
        body=orders.PushRequest,
        errors=MANAGED,
    ),
    ("POST", "/api/create"): Operation(
        "Make a model, in every store",
        _lines(api.ProgressResponse),
        body=orders.CreateRequest,
        errors=MANAGED,
    ),
    ("POST", "/api/copy"): Operation(
        "Give a model one more name",
        _NOTHING,
        body=orders.CopyRequest,
        required=("source", "destination"),
        errors=MANAGED,
    ),
    ("DELETE", "/api/delete"): Operation(
        "Delete a model", _NOTHING, body=orders.DeleteRequest, errors=MANAGED
    ),
    ("HEAD", "/api/blobs/{digest}"): Operation(
        "Is a blob in every store?", _NOTHING, errors=(*ASKED, 400, 404)
    ),
    ("POST", "/api/blobs/{digest}"): Operation(
        "Store what a model is created from; 200 if it is there",
        {200: {}, 201: {}},
        body=BYTES,
        errors=TAKEN,
    ),
    ("POST", "/api/generate"): Operation(
        "Complete a prompt",
        _lines(api.GenerateResponse),
        body=native.GenerateRequest,
        required=("model",),
        errors=INFERRED,
        is_cached=True,
    ),
    ("POST", "/api/chat"): Operation(
        "Answer a chat",
        _lines(api.ChatResponse),
        body=native.ChatRequest,
        required=("model",),
        errors=INFERRED,
        is_cached=True,
    ),
    ("POST", "/api/embed"): Operation(
        "Embed texts",
        said_in_json(api.EmbedResponse),
        body=native.EmbedRequest,
        required=("model",),
        errors=INFERRED,
        is_cached=True,
    ),
    ("POST", "/api/embeddings"): Operation(
        "Embed a text, in the older form",
        said_in_json(api.EmbeddingResponse),
        body=native.EmbeddingsRequest,
        required=("model",),
        errors=INFERRED,
        is_cached=True,
    ),
}

ACCOUNT: Mapping[tuple[str, str], Operation] = {
    ("GET", "/api/status"): Operation(
        "Whether the cloud is used: it is not", said_in_json(api.StatusResponse), errors=TOLD
    ),
    ("POST", "/api/me"): Operation("Whose account it is: there is none", {}, errors=(*TOLD, 503)),
    ("POST", "/api/signout"): Operation("There is no account", {}, errors=(*TOLD, 500)),
    ("DELETE", "/api/user/keys/{key}"): Operation("There is no account", {}, errors=(*TOLD, 500)),
    ("POST", "/api/experimental/web_search"): Operation(
        "Refused: the cloud is not used", {}, body=JSON, errors=(*TOLD, 400)
    ),
    ("POST", "/api/experimental/web_fetch"): Operation(
        "Refused: the cloud is not used", {}, body=JSON, errors=(*TOLD, 400)
    ),
    ("GET", "/api/experimental/model-recommendations"): Operation(
        "Ollama's own list", said_in_json(api.ModelRecommendationsResponse), errors=TOLD
    ),
}

V1: Mapping[tuple[str, str], Operation] = {
    ("POST", "/v1/chat/completions"): Operation(
        "Answer a chat",
        {
            200: {
                JSON: openai.ChatCompletion,
                EVENTS: (openai.ChatCompletionChunk, openai.ErrorResponse, _DONE),
            }
        },
        "openai",
        ChatCompletionRequest,
        ("model", "messages"),
        INFERRED,
        is_cached=True,
    ),
    ("POST", "/v1/completions"): Operation(
        "Complete a prompt",
        {
            200: {
                JSON: openai.Completion,
                EVENTS: (openai.CompletionChunk, openai.ErrorResponse, _DONE),
            }
        },
        "openai",
        CompletionRequest,
        ("model",),
        INFERRED,
        is_cached=True,
    ),
    ("POST", "/v1/embeddings"): Operation(
        "Embed texts",
        said_in_json(openai.EmbeddingList),
        "openai",
        openai_embeddings.EmbeddingsRequest,
        ("model", "input"),
        INFERRED,
        is_cached=True,
    ),
    ("POST", "/v1/responses"): Operation(
        "Answer a chat, as OpenAI's Responses",
        {200: {JSON: responses.ResponsesResponse, EVENTS: responses.ResponsesStreamEvent}},
        "openai",
        ResponsesRequest,
        ("model",),
        INFERRED,
        is_cached=True,
    ),
    ("POST", "/v1/messages"): Operation(
        "Answer a chat, as Anthropic's Messages",
        {200: {JSON: anthropic.MessagesResponse, EVENTS: anthropic.EVENTS}},
        "anthropic",
        MessagesRequest,
        ("model", "max_tokens", "messages"),
        (*(status for status in INFERRED if status != 503), 529),
        is_cached=True,
    ),
    ("POST", "/v1/audio/transcriptions"): Operation(
        "Write down what is said; 501 where the engine can't",
        {200: {JSON: openai.TranscriptionResponse, TEXT: TEXT}},
        "openai",
        FORM,
        errors=INFERRED,
    ),
    ("GET", "/v1/models"): Operation(
        "The models of all replicas", said_in_json(openai.ListCompletion), "openai", errors=ASKED
    ),
    ("GET", "/v1/models/{name}"): Operation(
        "One model; its name may have slashes",
        said_in_json(openai.Model),
        "openai",
        errors=(*ASKED, 400, 404),
    ),
}

CLIENTS: Mapping[tuple[str, str], Operation] = {**PLAIN, **NATIVE, **ACCOUNT, **V1}
"""By verb and path. The admin routes, which have a port of their own: `admin_operations`."""
