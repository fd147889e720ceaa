"""A pool that embeds in Ollama's form and can go wrong at the right moment; counts what it did.

What real engines answer is tested on them (`test_infer.py`); here it is what happens when an engine
changes its model, its form or its mind between two calls.
"""

import json
from collections.abc import AsyncGenerator
from zlib import crc32

import numpy as np

from serve.errors import RUNNER_DIED
from serve.ports import Call, Failed, Frame, Head, Tail
from serve.wire.gojson import dumps, number
from tests.web.cached import TAIL
from tests.web.scripted_pool import JSON


class FaultyEmbedder:
    """`ports.Inference`. A text's vector follows from the text and `model`."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.asked: list[list[str]] = []
        self.closed = 0
        self.model = 1
        self.tails: list[Tail] = []
        """For the calls to come; then `TAIL`."""
        self.refused = "no text of any test"
        self.dies = False
        """In the middle of each answer."""
        self.more = b""
        """Printed before the end of each answer."""

    def vector(self, text: str) -> bytes:
        numbers = np.random.default_rng(crc32(text.encode()) + self.model).normal(size=5)
        return b"[%b]" % ",".join(number(float(str(np.float32(x)))) for x in numbers).encode()

    def body(self, texts: list[str], *, ms: int = 0, model: str = "all-minilm") -> bytes:
        printed = b",".join(map(self.vector, texts))
        duration = (ms or len(self.asked)) * 1_000_000
        return b'{"model":%b,"embeddings":[%b],"total_duration":%d,"prompt_eval_count":%d%b}' % (
            *(dumps(model), printed, duration),
            *(sum(map(tokens, texts)), self.more),
        )

    async def stream(self, call: Call) -> AsyncGenerator[Frame, None]:
        self.calls.append(call)
        try:
            request = json.loads(call.body)
            given = request["input"]
            texts = [given] if isinstance(given, str) else given
            self.asked.append(texts)
            if self.refused in texts:
                yield Head(400, JSON.content_type)
                yield b'{"error":"the input length exceeds the context length"}'
            else:
                yield JSON
                whole = self.body(texts, model=request["model"])
                yield whole[:9]
                if self.dies:
                    yield Failed(RUNNER_DIED)
                    return
                yield whole[9:]
            yield self.tails.pop(0) if self.tails else TAIL
        finally:
            self.closed += 1


def tokens(text: str) -> int:
    """As if every letter were a token, and two more: what `Vector.tokens` isn't made of."""
    return len(text) + 2
