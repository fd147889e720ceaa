"""The routes of other dialects than Ollama's own, each asked as the native request it stands for.

One native request, so one call of an engine and one entry in the cache, whatever dialect it was
asked in.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any
from zlib import crc32

from serve.errors import EngineDied
from serve.web.dialects import Asked, translated, understood, unknown
from serve.web.exchange import Exchange
from serve.web.reply import Header
from serve.wire import gojson, openai
from serve.wire import openai_completions as complete
from serve.wire import openai_embeddings as embed
from serve.wire.anthropic_request import messages_to_native
from serve.wire.anthropic_response import MessageRenderer, message_id
from serve.wire.anthropic_types import decode_messages
from serve.wire.errors import openai_body
from serve.wire.responses_request import responses_to_native
from serve.wire.responses_response import ResponseRenderer, response_seed
from serve.wire.responses_types import decode_responses

_UNCACHED: tuple[Header, ...] = ((b"cache-control", b"no-cache"),)
"""Of streams, as Ollama says it."""


class EmbeddingRenderer:
    """`/v1/embeddings`: always whole."""

    stream_type = whole_type = b"application/json"
    stream_headers: tuple[Header, ...] = ()

    def __init__(self, request: embed.EmbeddingsRequest) -> None:
        self._request = request

    def chunk(self, data: bytes) -> bytes:
        """The list of embeddings: there are no streams."""
        return self.single(data)

    def whole(self, lines: Sequence[bytes]) -> bytes:
        """The list of embeddings."""
        return self.single(b"".join(lines))

    def single(self, body: bytes) -> bytes:
        """The list of embeddings."""
        with understood():
            return embed.embedding_list(self._request, body)

    def broken(self, message: str) -> bytes:
        """The error as a whole."""
        return openai_body(EngineDied(message), newline=True)


def completions(exchange: Exchange) -> Asked:
    """`/v1/completions`, by `/api/generate`."""
    request = complete.decode_completion(exchange.body)

    def said(first: bytes, born: bytes) -> complete.CompletionRenderer:
        number = crc32(first) % openai.ID_RANGE
        return complete.CompletionRenderer(request, number=number, created=openai.created_s(born))

    sent = complete.completion_to_native(request)
    return translated(
        "/api/generate",
        sent,
        said,
        is_streamed=request.stream,
        unknown=unknown("/v1/completions", request),
    )


def embeddings(exchange: Exchange) -> Asked:
    """`/v1/embeddings`, by `/api/embed`."""
    request = embed.decode_embeddings(exchange.body)
    sent = embed.embeddings_to_native(request)
    return Asked(
        "/api/embed",
        sent,
        gojson.dumps(sent),
        request.model,
        is_streamed=False,
        renderer=partial(EmbeddingRenderer, request),
        is_translated=True,
        unknown=unknown("/v1/embeddings", request),
    )


def messages(exchange: Exchange) -> Asked:
    """`/v1/messages`, by `/api/chat`. A model that can't think isn't asked to, as in Ollama."""
    request = decode_messages(exchange.body)
    sent = messages_to_native(request)

    def said(first: bytes, _born: bytes) -> MessageRenderer:
        return MessageRenderer(request, id=message_id(first))

    def asking(sent: dict[str, Any]) -> Asked:
        return translated(
            "/api/chat",
            sent,
            said,
            is_streamed=request.stream,
            unknown=unknown("/v1/messages", request),
            stream_headers=_UNCACHED,
        )

    asked = asking(sent)
    if not sent.get("think"):
        return asked
    unthinking = {name: value for name, value in sent.items() if name != "think"}
    return replace(asked, unthinking=asking(unthinking))


def responses(exchange: Exchange) -> Asked:
    """`/v1/responses`, by `/api/chat`."""
    request = decode_responses(exchange.body)

    def said(first: bytes, born: bytes) -> ResponseRenderer:
        seed = response_seed(first)
        return ResponseRenderer(request, seed=seed, created=openai.created_s(born))

    sent = responses_to_native(request)
    is_streamed = bool(request.stream)
    return translated(
        "/api/chat",
        sent,
        said,
        is_streamed=is_streamed,
        unknown=unknown("/v1/responses", request),
        stream_headers=_UNCACHED if is_streamed else (),
    )


V1: Mapping[str, Callable[[Exchange], Asked]] = {
    "/v1/completions": completions,
    "/v1/embeddings": embeddings,
    "/v1/messages": messages,
    "/v1/responses": responses,
}
"""How the requests to each of these routes are understood."""
