"""What the ingress's handlers work with, put together once when the application is built."""

from collections.abc import Callable
from dataclasses import dataclass

from serve.cache.service import AnswerCache
from serve.ports import Inference
from serve.web.cache_status import of_hit
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

    def remembered(self, stored_at: float, key: bytes, tier: bytes) -> tuple[Header, Header]:
        """`Age` (RFC 9111 §5.1) and `Cache-Status` of an answer stored then."""
        age_s = max(0, int(self.now() - stored_at))
        return (b"age", b"%d" % age_s), of_hit(key, age_s, self.answers.lifetime_s, tier)
