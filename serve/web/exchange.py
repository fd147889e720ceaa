"""One inference request on its way through the ingress."""

from time import perf_counter_ns

from starlette.types import Receive, Send

from serve.cache.entry import Worth
from serve.web.identity import Identity
from serve.web.meter import Verdict

LARGE_BYTES = 1 << 20
"""Bodies from here on are hashed and parsed in a thread, beside the loop of all requests."""

UNASKED = Verdict("bypass", "unasked")


class Exchange:
    """What is known of a request, from its first byte to the line in the log."""

    __slots__ = (
        "_started_ns",
        "body",
        "error_headers",
        "first_byte_ms",
        "gpu_ns",
        "headers",
        "identity",
        "model",
        "raw_key",
        "receive",
        "request_id",
        "route",
        "send",
        "status",
        "tokens",
        "verdict",
    )

    def __init__(
        self,
        route: str,
        headers: dict[bytes, bytes],
        request_id: str,
        receive: Receive,
        send: Send,
    ) -> None:
        self.route = route
        self.headers = headers
        self.request_id = request_id
        self.receive = receive
        self.send = send
        self.identity = Identity("", admin=False)
        self.body = b""
        self.error_headers: tuple[tuple[bytes, bytes], ...] = ()
        self.raw_key = b""
        self.model = ""
        self.verdict = UNASKED
        self.status = 0
        self.tokens = self.gpu_ns = 0
        self.first_byte_ms = 0.0
        self._started_ns = perf_counter_ns()

    @property
    def has_begun(self) -> bool:
        """Whether an answer is on its way, so that no other may be sent."""
        return self.status > 0

    def elapsed_ms(self) -> float:
        """Milliseconds since the request arrived."""
        return (perf_counter_ns() - self._started_ns) / 1e6

    def saves(self, worth: Worth) -> None:
        """So much of the answer was not generated for this request."""
        self.tokens, self.gpu_ns = worth

    def began(self, status: int) -> None:
        """The status is about to be sent."""
        self.status = status
        self.first_byte_ms = self.elapsed_ms()
