"""What each inference route asks for, as one native request and a way to say the answer.

Every answer that is generated token by token is asked of the engine as a stream, whatever the
client wants, so that one exchange with the engine serves both forms.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol
from zlib import crc32

from serve.cache.key import UNKNOWN
from serve.cache.reviewed import IGNORED
from serve.errors import BadRequest, EngineDied
from serve.web.exchange import Exchange
from serve.web.reply import Header
from serve.wire import gojson, names, native, openai
from serve.wire.collect import collect
from serve.wire.fields import FIELDS
from serve.wire.godecoding import fold
from serve.wire.gojson import names_twice
from serve.wire.gostruct import GoRequest

NDJSON = b"application/x-ndjson"
JSON = b"application/json; charset=utf-8"


class Renderer(Protocol):
    """Says a native answer in the client's dialect."""

    stream_type: bytes
    whole_type: bytes
    stream_headers: tuple[Header, ...]
    """What a stream's answer says beside its type."""

    def chunk(self, data: bytes) -> bytes:
        """What to send for some whole native lines; may be empty."""
        ...

    def whole(self, lines: Sequence[bytes]) -> bytes:
        """The body of an answer that isn't streamed."""
        ...

    def single(self, body: bytes) -> bytes:
        """What to send for an engine's answer that is one object: an embedding, or a load."""
        ...

    def broken(self, message: str) -> bytes:
        """The last thing in a stream that failed after it began."""
        ...


@dataclass(frozen=True, slots=True)
class Asked:
    """One generation or embedding, resolved to the native API."""

    route: str
    native: Mapping[str, Any]
    body: bytes
    spelled: str
    is_streamed: bool
    renderer: Callable[[], Renderer]
    """A fresh one: a renderer of streams remembers how far it is."""
    is_translated: bool = False
    """Is the client's dialect another than the engine's?"""
    unthinking: "Asked | None" = None
    """What to ask where the engine refuses this because its model can't think."""
    error_headers: tuple[Header, ...] = ()
    """What an answer says beside its type even if the engine refuses."""
    unknown: Mapping[str, Any] = field(default_factory=dict)
    """What the client says and no translation knows: the engine is not told, as by Ollama."""

    @property
    def meaning(self) -> Mapping[str, Any]:
        """The native request as the cache tells it from others."""
        return {**self.native, UNKNOWN: self.unknown} if self.unknown else self.native

    @property
    def model(self) -> str:
        """The canonical name, or "" where Ollama would refuse it: the engine says how."""
        try:
            return names.canonical(self.spelled)
        except BadRequest:
            return ""


@contextmanager
def understood() -> Iterator[None]:
    """What an engine says must be what its API promises, or it is as good as dead."""
    try:
        yield
    except (ValueError, LookupError, TypeError, AttributeError) as fault:
        raise EngineDied("the engine sent lines that are not Ollama's") from fault


class NativeRenderer:
    """Ollama's own form: the lines as they came."""

    stream_type = NDJSON
    whole_type = JSON
    stream_headers: tuple[Header, ...] = ()

    def __init__(self, route: str) -> None:
        self._route = route

    def chunk(self, data: bytes) -> bytes:
        """The lines themselves."""
        return data

    def whole(self, lines: Sequence[bytes]) -> bytes:
        """One object, its text put together."""
        with understood():
            return collect(lines, self._route)

    def single(self, body: bytes) -> bytes:
        """The object itself."""
        return body

    def broken(self, message: str) -> bytes:
        """Ollama's last line."""
        return gojson.dumps({"error": message}) + b"\n"


class Said(Protocol):
    """One answer in another dialect, line by line or whole."""

    def chunk(self, native_line: bytes) -> bytes:
        """The events for one native line."""
        ...

    def whole(self, lines: Sequence[bytes]) -> bytes:
        """The body of an answer that is no stream."""
        ...

    def error(self, message: str) -> bytes:
        """The event that ends a stream that failed."""
        ...


class Translated:
    """Another dialect, whole or as server-sent events.

    `said` makes the words for an answer from its first line and from the one that its time is
    taken of: id and creation time follow from the native lines, so an answer from the cache has
    those that it was first given with.
    """

    stream_type = b"text/event-stream"
    whole_type = b"application/json"

    def __init__(
        self,
        said: Callable[[bytes, bytes], Said],
        *,
        is_streamed: bool = False,
        stream_headers: tuple[Header, ...] = (),
    ) -> None:
        self.stream_headers = stream_headers
        self._said = said
        self._is_streamed = is_streamed
        self._begun: Said | None = None

    def chunk(self, data: bytes) -> bytes:
        """The events for these lines."""
        lines = data.splitlines()
        with understood():
            if self._begun is None:
                self._begun = self._said(lines[0], lines[0])
            return b"".join(map(self._begun.chunk, lines))

    def whole(self, lines: Sequence[bytes]) -> bytes:
        """One object."""
        with understood():
            return self._said(lines[0], lines[-1]).whole(lines)

    def single(self, body: bytes) -> bytes:
        """A load, as an answer that is all in its last line."""
        return self.chunk(body) if self._is_streamed else self.whole([body])

    def broken(self, message: str) -> bytes:
        """An error event: clients of this dialect raise it."""
        return (self._begun or self._said(b"{}", b"{}")).error(message)


class GenerationRoute:
    """`/api/generate` and `/api/chat`."""

    def __init__(
        self, route: str, kind: type[native.GenerateRequest] | type[native.ChatRequest]
    ) -> None:
        self._route = route
        self._kind = kind

    def __call__(self, exchange: Exchange) -> Asked:
        """Raises `BadRequest` with Ollama's words for a body of the wrong form."""
        request = native.decode(exchange.body, self._kind)
        is_streamed = request.stream is not False
        sent = request.raw
        body = exchange.body
        if not is_streamed and not names_twice(sent):
            sent = {key: value for key, value in sent.items() if key.lower() != "stream"}
            body = gojson.dumps(sent)
        # Go merges what is named twice, which can't be said again: such a body goes as it is.
        return Asked(
            self._route,
            sent,
            body,
            request.model,
            is_streamed,
            partial(NativeRenderer, self._route),
        )


class EmbeddingRoute:
    """`/api/embed` and `/api/embeddings`: one JSON object, passed on as it is."""

    def __init__(
        self, route: str, kind: type[native.EmbedRequest] | type[native.EmbeddingsRequest]
    ) -> None:
        self._route = route
        self._kind = kind

    def __call__(self, exchange: Exchange) -> Asked:
        """Raises `BadRequest` with Ollama's words for a body of the wrong form."""
        request = native.decode(exchange.body, self._kind)
        return Asked(
            self._route,
            request.raw,
            exchange.body,
            request.model,
            is_streamed=False,
            renderer=partial(NativeRenderer, self._route),
        )


def unknown(route: str, request: GoRequest) -> dict[str, Any]:
    """What neither the table of the route's fields nor the cache's reviewed list has."""
    return {
        name: value
        for name, value in (request.model_extra or {}).items()
        if fold(name) not in FIELDS[route] and fold(name) not in IGNORED
    }


def translated(
    route: str,
    sent: dict[str, Any],
    said: Callable[[bytes, bytes], Said],
    *,
    is_streamed: bool,
    unknown: Mapping[str, Any],
    stream_headers: tuple[Header, ...] = (),
) -> Asked:
    """A generation that is asked for natively by `sent` and said again by `said`."""
    renderer = partial(Translated, said, is_streamed=is_streamed, stream_headers=stream_headers)
    body, model = gojson.dumps(sent), sent["model"]
    error_headers = stream_headers if is_streamed else ()
    return Asked(
        route,
        sent,
        body,
        model,
        is_streamed,
        renderer,
        is_translated=True,
        error_headers=error_headers,
        unknown=unknown,
    )


def chat_completions(exchange: Exchange) -> Asked:
    """`/v1/chat/completions`, translated as Ollama's own middleware does (openai/openai.go)."""
    request = openai.decode_chat(exchange.body)
    sent = openai.to_native(request)
    sent.pop("stream", None)

    def said(first: bytes, born: bytes) -> openai.ChatRenderer:
        return openai.ChatRenderer(
            request, id=openai.completion_id(crc32(first)), created=openai.created_s(born)
        )

    return translated(
        "/api/chat",
        sent,
        said,
        is_streamed=request.stream,
        unknown=unknown("/v1/chat/completions", request),
    )


BY_PATH: Mapping[str, Callable[[Exchange], Asked]] = {
    "/api/generate": GenerationRoute("/api/generate", native.GenerateRequest),
    "/api/chat": GenerationRoute("/api/chat", native.ChatRequest),
    "/api/embed": EmbeddingRoute("/api/embed", native.EmbedRequest),
    "/api/embeddings": EmbeddingRoute("/api/embeddings", native.EmbeddingsRequest),
    "/v1/chat/completions": chat_completions,
}
"""How the requests to each inference route are understood."""
