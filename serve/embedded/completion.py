"""Completing a prompt: llama.cpp's `/completion`, as a stream of pieces of text."""

import contextlib
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from serve.embedded.asking import (
    JSON_GRAMMAR,
    Question,
    sampling,
    schema_of,
    sendable,
    shortened,
)
from serve.embedded.loaded import Loaded

_MOST_REPEATS = 30
_NS_A_MS = 1_000_000


@dataclass(frozen=True, slots=True)
class Final:
    """How an answer ended, and what it took; durations in nanoseconds."""

    reason: str
    prompt_eval_count: int
    prompt_eval_duration: int
    eval_count: int
    eval_duration: int


@dataclass(frozen=True, slots=True)
class Piece:
    """What one step of the model adds to an answer; the last one has a `final`."""

    text: str = ""
    thinking: str = ""
    logprobs: Sequence[Mapping[str, Any]] = ()
    tool_calls: Sequence[Mapping[str, Any]] = field(default=())
    final: Final | None = None


async def complete(
    loaded: Loaded, prompt: str, question: Question, images: Sequence[str] = ()
) -> AsyncGenerator[Piece, None]:
    """The pieces of the answer to `prompt`, once the model has a slot free.

    Ends without a final piece where the model only repeats one token, as Ollama's does. Raises
    `EngineInvalid` for a bad format, `EngineRefused` and `EngineDied` as the runner's HTTP does.
    """
    async with loaded.slots:
        body = sampling(question, loaded) | _format(question)
        body["prompt"] = (
            {"prompt_string": prompt, "multimodal_data": list(images)}
            if images
            else await shortened(loaded, prompt, question)
        )
        if question.logprobs:
            body["n_probs"] = max(question.top_logprobs, 1)
        repeats = _Repeats()
        llama = loaded.process.llama
        async with contextlib.aclosing(llama.events("/completion", sendable(body))) as events:
            async for event in events:
                if repeats.too_many(event["content"]):
                    return
                if event["stop"]:
                    yield Piece(event["content"], final=_final(event))
                    return
                if event["content"]:
                    probabilities = event.get("completion_probabilities", ())
                    yield Piece(
                        event["content"],
                        logprobs=logprobs(probabilities, top=question.top_logprobs > 0),
                    )


def logprobs(probabilities: Sequence[Mapping[str, Any]], *, top: bool) -> list[dict[str, Any]]:
    """A runner's token probabilities in Ollama's form; `top` with each token's rivals."""
    found = []
    for probability in probabilities:
        token = _token(probability)
        if top and probability.get("top_logprobs"):
            token["top_logprobs"] = [_token(rival) for rival in probability["top_logprobs"]]
        found.append(token)
    return found


def final_of(reason: str, timings: Mapping[str, Any]) -> Final:
    """The end of an answer, from the timings of llama.cpp. Cached prompt tokens count too."""
    return Final(
        reason=reason,
        prompt_eval_count=timings.get("cache_n", 0) + timings["prompt_n"],
        prompt_eval_duration=int(timings["prompt_ms"] * _NS_A_MS),
        eval_count=timings["predicted_n"],
        eval_duration=int(timings["predicted_ms"] * _NS_A_MS),
    )


def _final(event: Mapping[str, Any]) -> Final:
    return final_of("length" if event["stop_type"] == "limit" else "stop", event["timings"])


def _token(probability: Mapping[str, Any]) -> dict[str, Any]:
    token = {"token": probability["token"], "logprob": probability["logprob"]}
    encoded = list(str(probability["token"]).encode())
    return token | {"bytes": encoded} if encoded else token


def _format(question: Question) -> dict[str, Any]:
    schema = schema_of(question)
    if schema is None:
        return {}
    return {"grammar": JSON_GRAMMAR} if isinstance(schema, str) else {"json_schema": schema}


class _Repeats:
    """Counts how often the same token comes in a row."""

    def __init__(self) -> None:
        self._last = ""
        self._times = 0

    def too_many(self, text: str) -> bool:
        """Takes the next token's text; is it time to stop?"""
        text = text.strip()
        self._times = self._times + 1 if text == self._last else 0
        self._last = text
        return self._times > _MOST_REPEATS
