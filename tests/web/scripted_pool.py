"""A pool that says what a real one says only when something breaks at the right moment.

It injects faults and counts what becomes of its streams; what real engines do is tested on them.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence

from serve.ports import Call, Frame, Head

Step = Frame | Exception | asyncio.Event
"""A frame to yield, an error to raise, or an event to wait for."""


class ScriptedPool:
    """`ports.Inference` that follows a script."""

    def __init__(self, script: Sequence[Step]) -> None:
        self.script = script
        self.calls: list[Call] = []
        self.closed = 0

    async def stream(self, call: Call) -> AsyncGenerator[Frame, None]:
        self.calls.append(call)
        try:
            for step in self.script:
                if isinstance(step, Exception):
                    raise step
                if isinstance(step, asyncio.Event):
                    await step.wait()
                else:
                    yield step
        finally:
            self.closed += 1


NDJSON = Head(200, "application/x-ndjson")
JSON = Head(200, "application/json; charset=utf-8")


def line(text: str, *, done: bool = False) -> bytes:
    """A native chat line."""
    tail = b'"done":true,"done_reason":"stop","eval_count":2}' if done else b'"done":false}'
    return (
        b'{"model":"m","created_at":"2026-11-23T14:27:06.765256895Z","message":{"role":"assistant",'
        b'"content":"%s"},%s\n' % (text.encode(), tail)
    )
