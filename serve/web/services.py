"""What the ingress's handlers work with, put together once when the application is built."""

from collections.abc import Callable
from dataclasses import dataclass

from serve.cache.service import AnswerCache
from serve.ports import Inference
from serve.web.identity import Directory
from serve.web.journal import Journal
from serve.web.meter import Meter
from serve.web.origin import Hosts, Origins
from serve.web.reply import Header


@dataclass(frozen=True, slots=True)
class Services:
    """The parts behind the routes. `now` is wall clock time in seconds, for `Age`."""

    inference: Inference
    answers: AnswerCache
    directory: Directory
    origins: Origins
    hosts: Hosts
    meter: Meter
    journal: Journal
    now: Callable[[], float]
    max_body_bytes: int
    deadline_s: float | None = None

    def age(self, stored_at: float) -> Header:
        """The `Age` header (RFC 9111 §5.1) of an answer stored then."""
        return (b"age", b"%d" % max(0, int(self.now() - stored_at)))
