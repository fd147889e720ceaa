"""Is an engine alive? Decided from its signs of life, with the time handed in.

`/` and `/api/tags` stay 200 while an Ollama is wedged, so neither says anything. A sign of life is
a byte of any answer that takes up a slot, or an answered canary: one token or one embedding.

    quiet for `after_s` ──▶ ask a canary ──(answered, or any byte)──▶ well
                                 │
                                 └─ unanswered: with nothing else at work for `timeout_s`, else once
                                    the engine has been quiet for `stall_s` ──▶ wedged

Why two limits. A canary that an idle engine leaves unanswered says all. But with calls in all of
its slots the canary waits behind them, and a long prompt is evaluated for minutes without a byte;
so then only a long silence on every call counts, which the canary would have broken if it could.
A client that leaves is no sign of life: those of a wedged engine leave one after the other. Nor is
the next one's coming, soon after, the end of the silence.
An engine that waits for a reader (`held`) is not silent of its own accord.
A canary that fails with an error of the engine's, three times without a byte in between, is a wedge
too: nothing else works there.
"""

from typing import Literal

Verdict = Literal["well", "ask", "waiting", "wedged"]

_FAILURES = 3


class Vitals:
    """One engine's signs of life. All times in seconds, of one monotonic clock."""

    def __init__(self, after_s: float, timeout_s: float, stall_s: float, now: float) -> None:
        self._after_s = after_s
        self._timeout_s = timeout_s
        self._stall_s = max(stall_s, timeout_s)
        self.at_work = 0
        self._held = 0
        self.quiet_since = now
        """The last sign of life, or when the first call came to an idle engine."""
        self._has_left = False  # did a call end since then that never got a byte?
        self._left_at = now
        self._asked_at: float | None = None
        self._not_before = now
        self._failures = 0

    def started(self, now: float) -> None:
        """This engine is new. Calls to the one before it end on their own."""
        self._held = 0
        self._not_before = now
        self.beat(now)

    def begun(self, now: float) -> None:
        """A call was sent to the engine."""
        if not self.at_work:
            if self._asked_at is not None:
                self.quiet_since = max(self.quiet_since, self._asked_at)
            elif not self._has_left or now - self._left_at >= self._after_s:
                self.quiet_since = now
        self.at_work += 1

    def beat(self, now: float) -> None:
        """Some bytes of an answer, or a good answer to the canary."""
        self.quiet_since = now
        self._has_left = False
        self._asked_at = None
        self._failures = 0

    def ended(self, now: float, *, is_mute: bool) -> None:
        """A call is over, in whatever way. `is_mute`: without a byte."""
        self.at_work -= 1
        self._has_left = self._has_left or is_mute
        self._left_at = now

    def held(self, by: int, now: float) -> None:
        """One more call (`by` 1) has a full buffer before its reader, or one fewer (-1)."""
        self._held = max(0, self._held + by)
        self.beat(now)

    def asked(self, now: float) -> None:
        """A canary was sent."""
        self._asked_at = now

    def failed(self, now: float) -> None:
        """The canary was answered with an error of the engine's own."""
        self._failures += 1
        self._asked_at = None
        self._not_before = now + self._timeout_s

    def spared(self, now: float) -> None:
        """No canary could be sent: nothing is loaded that one may be asked of."""
        self._asked_at = None
        self._not_before = now + self._after_s

    def quiet_s(self, now: float) -> float:
        """How long there has been no sign of life."""
        return now - self.quiet_since

    def verdict(self, now: float) -> Verdict:
        """What to do now. `wedged` stays until `started` or a sign of life."""
        if self._held:
            return "well"
        if self._failures >= _FAILURES:
            return "wedged"
        has_stalled = self.at_work > 0 and self.quiet_s(now) >= self._stall_s
        if self._asked_at is not None:
            waited_s = now - max(self._asked_at, self._left_at)
            is_over = waited_s >= self._timeout_s and (has_stalled or not self.at_work)
            return "wedged" if is_over else "waiting"
        if has_stalled:
            return "wedged"
        is_due = self.quiet_s(now) >= self._after_s and now >= self._not_before
        return "ask" if is_due else "well"
