"""What is counted: plain integers on the hot path, read off once a second.

The ingress deployment exports the names with the prefix `rayllama_` (README, "Metrics and logs").
"""

from collections import Counter
from typing import NamedTuple


class Verdict(NamedTuple):
    """What the cache said of one request: `hit` + tier, `miss` + reason or `bypass` + reason."""

    kind: str
    detail: str

    def header(self) -> bytes:
        """The value of `X-Rayllama-Cache`."""
        name = "tier" if self.kind == "hit" else "reason"
        return f"{self.kind}; {name}={self.detail}".encode()


class Meter:
    """Counts since the last reading, and what is in flight now."""

    __slots__ = ("answers", "in_flight", "statuses", "ttft_ms")

    def __init__(self) -> None:
        self.answers: Counter[Verdict] = Counter()
        self.statuses: Counter[tuple[str, int]] = Counter()
        self.ttft_ms: list[float] = []
        self.in_flight = 0

    def drain(self) -> tuple[Counter[Verdict], Counter[tuple[str, int]], list[float]]:
        """What came since the last call: verdicts, (route, status) and times to first byte."""
        taken = self.answers, self.statuses, self.ttft_ms
        self.answers, self.statuses, self.ttft_ms = Counter(), Counter(), []
        return taken
