"""What is wrong with an answer: what the document has against it, and whose fault a 5xx is."""

import http.client
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from serve.ports import Call
from serve.wire.account import ACCOUNT
from tests.stack import Stack
from tests.web.described import DOCUMENT, VERBS, Said, answer_faults, template

TIMEOUT_S = 90
"""No answer is slower, on a machine however busy: what takes longer hangs."""
TRANSCRIPTIONS = "/v1/audio/transcriptions"

Headers = Sequence[tuple[str, str]]


@dataclass
class Asked:
    """A request as it goes out; `is_chunked`: its body has no length."""

    method: str
    target: str
    headers: Headers = ()
    body: bytes = b""
    is_chunked: bool = False

    @property
    def path(self) -> str:
        return unquote(self.target.partition("?")[0])

    def header(self, name: str) -> str:
        return ", ".join(value for key, value in self.headers if key.lower() == name)


@dataclass
class Got:
    """What came back."""

    said: Said
    headers: Mapping[str, str]


def ask(url: str, asked: Asked) -> Got:
    """The answer. Raises `TimeoutError` where it doesn't come."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=TIMEOUT_S)
    try:
        given = {name.lower() for name, _ in asked.headers}
        connection.putrequest(
            asked.method, asked.target, skip_host="host" in given, skip_accept_encoding=True
        )
        for name, value in asked.headers:
            connection.putheader(name, value.encode("latin-1", "replace"))
        if asked.is_chunked:
            connection.putheader("Transfer-Encoding", "chunked")
        elif asked.body or asked.method in ("POST", "PUT", "DELETE", "PATCH"):
            connection.putheader("Content-Length", str(len(asked.body)))
        body = asked.body if asked.body or asked.is_chunked else None
        with suppress(BrokenPipeError, ConnectionResetError):  # answered before the body's end
            connection.endheaders(body, encode_chunked=asked.is_chunked)
        response = connection.getresponse()
        read = response.read()
        headers = {name.lower(): value for name, value in response.getheaders()}
        return Got(Said(response.status, headers.get("content-type", ""), read), headers)
    except TimeoutError as error:
        raise TimeoutError(f"no answer within {TIMEOUT_S} s to {asked}") from error
    finally:
        connection.close()


@dataclass
class Judge:
    """Holds answers of one stack against the document, and its errors against its engine's."""

    stack: Stack
    statuses: Counter[int] = field(default_factory=Counter)
    heard: int = 0
    """So many of the engine's calls belong to requests before this one: one is asked at a time."""

    @property
    def engine_url(self) -> str:
        return self.stack.pool.replica._up()._client.base_url  # type: ignore[union-attr]

    def faults(self, asked: Asked, got: Got) -> list[str]:
        """All that is wrong."""
        said = got.said
        self.statuses[said.status] += 1
        faults = shape_faults(asked, said)
        if "x-request-id" not in got.headers and not asked.header("x-request-id"):
            faults.append("no x-request-id")
        calls = self.stack.pool.calls[self.heard :]
        self.heard += len(calls)
        if said.status >= 500 and not self._is_not_ours(asked, got, calls):
            faults.append(f"a {said.status} of our own: {said.body[:500]!r}")
        return faults

    def _is_not_ours(self, asked: Asked, got: Got, calls: Sequence[Call]) -> bool:
        """Did the engine say it, being asked that; or is it what we are told to say?"""
        status = got.said.status
        if status == 504 and "only-if-cached" in asked.header("cache-control").lower():
            return True
        if (asked.method, template(asked.path)) in ACCOUNT:
            plain = Asked(asked.method, asked.target, body=asked.body)
            return ask(self.engine_url, plain).said.status == status
        return bool(calls) and self._engine_says(calls[-1], status)

    def _engine_says(self, call: Call, status: int) -> bool:
        """The same request at the engine's own URL."""
        headers = [("Content-Type", call.content_type or "application/json")]
        said = ask(self.engine_url, Asked(call.method, call.path, headers, call.body)).said
        if call.path == TRANSCRIPTIONS:
            return (status, said.status) == (501, 404)
        last = said.body.splitlines()[-1:]
        if status == 500 and said.status == 200 and last:  # an error after a stream's first line
            return "error" in json.loads(last[0])
        return said.status == (503 if status == 529 else status)


def shape_faults(asked: Asked, said: Said, *, of_admin: bool = False) -> list[str]:
    """What the document has against it, or where there is no such operation, what gin says.

    The admin API and the ingress each have routes that the other has not.
    """
    path = template(asked.path)
    if path is not None and path.startswith("/admin/") is not of_admin:
        path = None
    if path is not None and asked.method.lower() in DOCUMENT["paths"][path]:
        return answer_faults(asked.method, path, said)
    if path is not None and of_admin and said.status == 403:
        verb = next(iter(DOCUMENT["paths"][path].keys() & set(VERBS)))  # refused, whatever the verb
        return [] if asked.method == "HEAD" else answer_faults(verb.upper(), path, said)
    if _is_gins(asked, said):
        return []
    return [f"{asked.method} {asked.target} is no route, and got {said.status} {said.media}"]


def _is_gins(asked: Asked, said: Said) -> bool:
    """Is it what Ollama's router says where there is no route?"""
    if (asked.method == "OPTIONS" and said.status == 204) or said.status == 403:
        return not said.body
    if said.status in _TEXTS:
        text = b"" if asked.method == "HEAD" else _TEXTS[said.status]
        return (said.media, said.body) == ("text/plain", text)
    return said.status in (301, 307) and said.media in ("text/html", "")


_TEXTS = {404: b"404 page not found", 405: b"405 method not allowed"}
