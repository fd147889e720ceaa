"""The log: one line a request, without a word of what was asked or answered."""

import logging
import random

from serve.web.exchange import Exchange
from serve.web.meter import Meter

log = logging.getLogger("rayllama.access")


class Journal:
    """Counts every request, and logs all but most of the hits."""

    def __init__(self, meter: Meter, hit_sample: float, choose: random.Random) -> None:
        self._meter = meter
        self._hit_sample = hit_sample
        self._choose = choose

    def close(self, exchange: Exchange) -> None:
        """The request is over."""
        meter = self._meter
        meter.answers[exchange.verdict] += 1
        meter.statuses[exchange.route, exchange.status] += 1
        is_hit = exchange.verdict.kind == "hit"
        if not is_hit and exchange.first_byte_ms:
            meter.ttft_ms.append(exchange.first_byte_ms)
        if is_hit and self._choose.random() >= self._hit_sample:
            return
        log.info(
            "id=%s route=%s model=%r tenant=%s status=%d cache=%s:%s first_byte_ms=%.1f ms=%.1f",
            exchange.request_id,
            exchange.route,
            exchange.model[:200],
            exchange.identity.tenant,
            exchange.status,
            exchange.verdict.kind,
            exchange.verdict.detail,
            exchange.first_byte_ms,
            exchange.elapsed_ms(),
        )
