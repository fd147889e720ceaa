"""The ingress's outermost layer: raw ASGI, so that a hit never reaches the router.

A POST to an inference route is read whole, its caller identified, and its bytes recognised in the
near cache; what is recognised is answered here. All else goes on to the router, with what is known
by then in `scope["exchange"]`.
"""

import asyncio
import logging
import re
from collections.abc import Callable, Sequence
from uuid import uuid4

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.errors import RayllamaError, Unforeseen
from serve.web.body import ClientGone, read_body
from serve.web.exchange import LARGE_BYTES, Exchange
from serve.web.failure import failure
from serve.web.meter import Verdict
from serve.web.packed import is_packed, unpacked
from serve.web.reply import CACHE_HEADER, Begun, Header, Reply
from serve.web.routes import INFERENCE, PACKED
from serve.web.services import Services

log = logging.getLogger("rayllama.web")

NEAR_HIT = Verdict("hit", "near")
_NEAR_HEADER = (CACHE_HEADER, NEAR_HIT.header())
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")


class Gateway:
    """The ASGI application that Serve calls."""

    def __init__(
        self, services: Services, router: ASGIApp, other_verbs: Callable[[Scope], bytes]
    ) -> None:
        self._services = services
        self._router = router
        self._other_verbs = other_verbs

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer from the near cache, or hand on to the router."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000})
            return
        if scope["type"] != "http":
            await self._router(scope, receive, send)
            return
        headers = _joined(scope["headers"])
        request_id = headers.get(b"x-request-id", b"").decode("latin-1")
        if not request_id:  # Serve sets one and echoes it; outside Serve it is done here
            request_id = str(uuid4())
            send = _with_headers(send, [(b"x-request-id", request_id.encode())])
        elif not _REQUEST_ID.fullmatch(request_id):  # it goes into our log and to the engine
            request_id = str(uuid4())
        scope["request_id"] = request_id
        admitted = send
        if (
            b"origin" in headers
            or scope["method"] == "OPTIONS"
            or not self._services.hosts.allows(headers.get(b"host", b""))
        ):
            checked = await self._admit(scope, headers, send)
            if checked is None:
                return
            admitted = checked
        await self._handle(scope, headers, receive, admitted)

    async def _handle(
        self, scope: Scope, headers: dict[bytes, bytes], receive: Receive, send: Send
    ) -> None:
        if scope["method"] == "POST" and scope["path"] in INFERENCE:
            exchange = Exchange(scope["path"], headers, scope["request_id"], receive, send)
            await self._infer(scope, exchange)
            return
        sending = Begun(send)
        try:
            await self._router(scope, receive, sending)
        except RayllamaError as error:
            if sending.has_begun:
                raise
            await failure(error, scope["path"]).send(send)
        except ClientGone:
            return
        except Exception:  # the last resort, as in `_infer`
            log.exception("id=%s: unforeseen", scope["request_id"])
            if sending.has_begun:
                raise
            await failure(_unforeseen(scope["request_id"]), scope["path"]).send(send)

    async def _infer(self, scope: Scope, exchange: Exchange) -> None:
        """One inference request, counted and logged whatever becomes of it."""
        services = self._services
        services.meter.in_flight += 1
        try:
            if not await self._recognise(scope, exchange):
                scope["exchange"] = exchange
                await self._router(scope, exchange.receive, exchange.send)
        except ClientGone:
            exchange.status = 499
        except asyncio.CancelledError:  # Serve saw the client leave, or a timeout of its own
            exchange.status = exchange.status or 499
            raise
        except RayllamaError as error:
            if exchange.has_begun:  # too late for another: the connection is cut
                raise
            await self._fail(exchange, error)
        except Exception:  # the last resort: whatever it is, the client gets an answer
            log.exception("id=%s: unforeseen", exchange.request_id)
            if exchange.has_begun:
                raise
            await self._fail(exchange, _unforeseen(exchange.request_id))
        finally:
            services.meter.in_flight -= 1
            services.journal.close(exchange)
            services.answers.ledger.add(
                exchange.verdict,
                exchange.model,
                exchange.identity.tenant,
                exchange.tokens,
                exchange.gpu_ns,
            )

    async def _fail(self, exchange: Exchange, error: RayllamaError) -> None:
        reply = failure(error, exchange.route)
        exchange.began(reply.status)
        await reply.send(exchange.send, more=exchange.error_headers)

    async def _recognise(self, scope: Scope, exchange: Exchange) -> bool:
        """Read and identify the request; answer it if its very bytes are known."""
        services = self._services
        headers = exchange.headers
        exchange.identity = services.directory.identify(headers)
        exchange.body = await read_body(exchange.receive, headers, services.max_body_bytes)
        asked = (
            scope["method"],
            scope["path"],
            scope["query_string"],
            exchange.identity.tenant,
            headers,
            exchange.body,
        )
        if len(exchange.body) < LARGE_BYTES:
            exchange.raw_key = services.answers.raw_key(*asked)
        else:
            exchange.raw_key = await asyncio.to_thread(services.answers.raw_key, *asked)
        near = services.answers.lookup_near(exchange.raw_key)
        if near is None:
            if is_packed(headers) and scope["path"] in PACKED:
                limit = services.max_body_bytes
                exchange.body = await asyncio.to_thread(unpacked, exchange.body, limit)
            return False
        exchange.verdict = NEAR_HIT
        exchange.model = near.model
        exchange.tokens, exchange.gpu_ns = near.tokens, near.gpu_ns
        exchange.began(near.status)
        await exchange.send(
            {
                "type": "http.response.start",
                "status": near.status,
                "headers": [
                    *near.headers,
                    _NEAR_HEADER,
                    *services.remembered(near.stored_at, near.key, b"near"),
                ],
            }
        )
        await exchange.send({"type": "http.response.body", "body": near.body})
        scout = services.scout
        if scout is not None and scout.is_hot(exchange.raw_key):
            facts = (scope["path"], scope["query_string"], scope["headers"], exchange.body)
            scout.tell(facts, near, exchange.identity.tenant)
        return True

    async def _admit(self, scope: Scope, headers: dict[bytes, bytes], send: Send) -> Send | None:
        """Apply the rules for Origin, then Host; None when the request has been answered here.

        As in Ollama: a preflight ends with the first, any other OPTIONS only where the Host is a
        name of this machine, else it is a verb like others. What hasn't that verb says `Allow`,
        whoever answers.
        """
        services = self._services
        host = headers.get(b"host", b"")
        origin = headers.get(b"origin", b"")
        if origin in (b"http://" + host, b"https://" + host):
            origin = b""  # a page of our own is not a stranger
        is_options = scope["method"] == "OPTIONS"
        others = self._other_verbs(scope)
        more: list[Header] = [(b"allow", others)] if others else []
        if origin and not services.origins.allows(origin):
            await Reply(403, b"", b"", headers=more).send(send)
            return None
        if origin and is_options:
            more += services.origins.preflight(origin)
            await Reply(204, b"", b"", headers=more, length=False).send(send)
            return None
        if origin:
            send = _with_headers(send, services.origins.headers(origin))
        if not services.hosts.allows(host):
            await Reply(403, b"", b"", headers=more).send(send)
            return None
        if is_options and services.hosts.names(host):
            await Reply(204, b"", b"", headers=more, length=False).send(send)
            return None
        return send


def _unforeseen(request_id: str) -> Unforeseen:
    return Unforeseen(f"internal error; the log has more under {request_id}")


def _joined(raw: Sequence[Header]) -> dict[bytes, bytes]:
    """Headers by name; those that came more than once as one (RFC 9110 §5.3)."""
    headers = dict(raw)
    if len(headers) != len(raw):
        for name in headers:
            headers[name] = b", ".join(value for other, value in raw if other == name)
    return headers


def _with_headers(send: Send, more: Sequence[Header]) -> Send:
    """A `send` that adds headers to the answer's first message."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], *more]
        await send(message)

    return sending
