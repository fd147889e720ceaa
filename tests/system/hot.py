"""Requests that become hot, and a load of them: what tests of the edge share."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from tests.system.conftest import wait_for

MODEL = "smollm2:135m"
EDGE = "hit; tier=edge"


def generation(prompt: str, model: str = MODEL) -> dict[str, Any]:
    options = {"temperature": 0, "num_predict": 4}
    return {"model": model, "prompt": prompt, "stream": False, "options": options}


def ask(http: httpx.Client, body: dict[str, Any]) -> httpx.Response:
    return http.post("/api/generate", json=body)


def is_edge(answer: httpx.Response) -> bool:
    return bool(answer.headers.get("x-rayllama-cache") == EDGE)


def until_edge(http: httpx.Client, body: dict[str, Any]) -> httpx.Response:
    answers: list[httpx.Response] = []

    def is_there() -> bool:
        answers.append(ask(http, body))
        return is_edge(answers[-1])

    wait_for(is_there, 60)
    return answers[-1]


class Load:
    """Asks one body again and again; what came, and what came wrong."""

    def __init__(self, body: dict[str, Any], right: bytes) -> None:
        self._body, self._right = body, right
        self.wrong: list[str] = []
        self.unanswered = 0
        self.answers = 0
        self.seen: list[tuple[float, str]] = []
        """When each answer was asked for, and when the engine says that it made it."""
        self.is_over = False

    def run(self, url: str, headers: dict[str, str]) -> None:
        with httpx.Client(base_url=url, timeout=60, headers=headers) as http:
            while not self.is_over:
                began = time.monotonic()
                try:
                    answer = ask(http, self._body)
                except httpx.TransportError:
                    self.unanswered += 1
                    continue
                made_at = answer.json()["created_at"] if answer.status_code == 200 else ""
                self.seen.append((began, made_at))
                self.answers += answer.status_code == 200
                if answer.status_code == 200 and answer.content != self._right:
                    self.wrong.append(answer.text)
                elif answer.status_code != 200:
                    self.unanswered += 1

    def asked_since(self, then: float) -> list[str]:
        """When the answers to what was asked for after `then` were made."""
        return [made_at for began, made_at in self.seen if began > then]


@contextmanager
def load(
    urls: list[str], body: dict[str, Any], right: bytes = b"", headers: dict[str, str] | None = None
) -> Iterator[Load]:
    """Two clients of each URL."""
    made = Load(body, right)
    threads = [
        threading.Thread(target=made.run, args=(url, headers or {})) for url in [*urls, *urls]
    ]
    for thread in threads:
        thread.start()
    try:
        yield made
    finally:
        made.is_over = True
        for thread in threads:
            thread.join()
