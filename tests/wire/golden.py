"""Rows of `data/*.jsonl`.

`recorded.jsonl` holds exchanges with a real Ollama 0.33. The other files hold what Go 1.26 makes of
the same inputs with Ollama 0.33's own types and middleware: `syntax` (any JSON; bodies are bytes
written as Latin-1), `types` (a request type each), `chat_requests` and `chat_answers` (the chat
completions middleware), `responses_*` and `messages_*` (those of the other two), `durations`,
`base64`, `options`, `numbers`, `names`.
"""

import json
from pathlib import Path
from typing import Any

_DATA = Path(__file__).parent / "data"


def rows(name: str) -> list[dict[str, Any]]:
    """The rows of one file."""
    with (_DATA / f"{name}.jsonl").open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def recorded(name: str) -> dict[str, Any]:
    """One recorded exchange: path, body, status, type, frames."""
    return next(row for row in rows("recorded") if row["name"] == name)


def frames(name: str) -> list[bytes]:
    """The frames of one recorded answer."""
    return [frame.encode() for frame in recorded(name)["frames"]]
