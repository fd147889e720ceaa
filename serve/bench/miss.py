"""Misses measured against the same engine driven directly: what Rayllama adds, and what it keeps.

Prompts are never repeated, so neither Rayllama's cache nor the engine's own prompt cache has seen
them; they are the same words in changing order, so that all take the same time. Both ways are
asked in turn, in changing order.
"""

import json
import secrets
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from statistics import median

from serve.bench.figures import p50_ms, p99_ms, rounded
from serve.bench.target import Engine, Target
from serve.bench.wire import Answer, Connection
from serve.errors import ConfigError

_WORDS = ("river", "copper", "winter", "garden", "engine", "letter", "harbour", "violin", "marble")
_ORDER = secrets.SystemRandom()
_FEW_TOKENS = 4
_MANY_TOKENS = 96
_REQUESTS_A_SLOT = 2

Say = Callable[[str], None]


def miss(target: Target, *, samples: int, rounds: int, say: Say) -> dict[str, float | str | None]:
    """The figures by name. Raises `ConfigError` where no engine can be driven directly."""
    if not target.engines:
        raise ConfigError(
            f"no engine of {target.url} runs on this machine; run this where an inference replica "
            "is, or name the engine with --engine URL"
        )
    engine = target.engines[0]
    say(f"first tokens in turn, {samples} times each way; the engine is {engine.url}")
    direct, through = _first_tokens(target, engine, samples)
    slots = sum(engine.slots for engine in target.engines)
    say(f"full slots in turn, {rounds} times each way, {slots} streams at once")
    kept = [_throughputs(target, turn, say) for turn in range(rounds)]
    return rounded(
        {
            "ttft_added_p50_ms": p50_ms(through) - p50_ms(direct),
            "ttft_added_p99_ms": p99_ms(through) - p99_ms(direct),
            "throughput_kept": median(a for _, a in kept) / median(a for a, _ in kept),
            "ttft_p50_ms": p50_ms(through),
            "ttft_direct_p50_ms": p50_ms(direct),
            "tokens_per_s": median(a for _, a in kept),
            "tokens_per_s_direct": median(a for a, _ in kept),
            "slots": float(slots),
        }
    )


def _first_tokens(target: Target, engine: Engine, samples: int) -> tuple[list[float], list[float]]:
    """Seconds to the first line: of the engine alone, and through Rayllama."""
    direct: list[float] = []
    through: list[float] = []
    with Connection(engine.url) as alone, target.connect() as rayllama:
        ways = [(alone, direct), (rayllama, through)]
        for connection, _ in ways:  # connections and code paths warm, the model loaded
            for _ in range(3):
                _ask(connection, target.model, _FEW_TOKENS)
        for _ in range(samples):
            for connection, seconds in ways:
                seconds.append(_ask(connection, target.model, _FEW_TOKENS).first_s)
            ways.reverse()
    return direct, through


def _throughputs(target: Target, turn: int, say: Say) -> tuple[float, float]:
    """Tokens a second at full slots: of the engines alone, and through Rayllama."""
    alone: list[tuple[str, dict[str, str]]] = [
        (engine.url, {}) for engine in target.engines for _ in range(engine.slots)
    ]
    rayllama = [(target.url, target.headers)] * len(alone)
    if turn % 2:
        through, direct = _flood(target.model, rayllama), _flood(target.model, alone)
    else:
        direct, through = _flood(target.model, alone), _flood(target.model, rayllama)
    say(f"  direct {direct:7.1f} tokens/s   through Rayllama {through:7.1f} tokens/s")
    return direct, through


def _flood(model: str, places: Sequence[tuple[str, dict[str, str]]]) -> float:
    """Tokens a second over all of `places`, each with a stream of its own."""

    def stream(place: tuple[str, dict[str, str]]) -> int:
        with Connection(*place) as connection:
            return sum(
                _tokens(_ask(connection, model, _MANY_TOKENS)) for _ in range(_REQUESTS_A_SLOT)
            )

    began = time.perf_counter()
    with ThreadPoolExecutor(len(places)) as pool:
        tokens = sum(pool.map(stream, places))
    return tokens / (time.perf_counter() - began)


def _ask(connection: Connection, model: str, tokens: int) -> Answer:
    options = {"temperature": 0, "seed": 1, "num_predict": tokens}
    words = " ".join(_ORDER.sample(_WORDS, len(_WORDS)))
    prompt = f"{_ORDER.randrange(10**8):08} {words}: tell a long story with these words."
    request = {"model": model, "prompt": prompt, "stream": True, "options": options}
    answer = connection.ask("/api/generate", json.dumps(request).encode())
    if answer.status != 200:
        raise ConfigError(f"/api/generate answers {answer.status}: {answer.body.decode()}")
    if answer.verdict.startswith("hit"):
        raise ConfigError("a prompt that was never asked before was a hit: nothing to report")
    return answer


def _tokens(answer: Answer) -> int:
    """Tokens of a stream; an Ollama ends one that only repeats itself without a last line."""
    lines = answer.body.splitlines()
    last = json.loads(lines[-1])
    if "error" in last:
        raise ConfigError(f"a stream failed: {last}")
    return int(last["eval_count"]) if last.get("done") else len(lines)
