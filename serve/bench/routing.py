"""Placement against Ray's default router: the same engines, models and traffic, one then the other.

Four replicas of the embedded engine on the CPU hold one runner each; three models with two lengths
of context are asked for, one of them most, another one every few seconds. A load is real: it is
seen as a new runner process.
"""

import asyncio
import json
import random
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from serve.bench.cluster import Cluster
from serve.bench.elastic import until_up
from serve.bench.figures import p50_ms, p99_ms, rounded
from serve.bench.streams import Stream
from serve.embedded.sources import smollm2
from serve.settings import Settings

_REPLICAS = 4
_CLIENTS = 6
_SHARES = (0.55, 0.2, 0.1, 0.07, 0.05, 0.03)
_SHIFT_S = 12.0
_CONTEXTS = (1024, 2048)
_RUNNER = ["-m", "serve.embedded", "runner"]

Say = Callable[[str], None]
Figures = dict[str, float | str | None]
Key = tuple[str, int]


def routing(*, seconds: int, say: Say) -> Figures:
    """The figures by name."""
    with tempfile.TemporaryDirectory(prefix="rayllama-bench-") as folder:
        settings = _settings(Path(folder), asyncio.run(smollm2()))
        say(f"{seconds} s on our scheduler")
        ours = _run(Cluster(settings, 0), seconds)
        say(f"{seconds} s on Ray's default router")
        default = _run(Cluster(settings, 0, "serve.bench.unplaced:build"), seconds)
    figures: Figures = dict(ours)
    figures |= {f"{name}_default": value for name, value in default.items()}
    return rounded(figures)


def _settings(folder: Path, weights: Path) -> Settings:
    """Copies of the weights: one file would be one runner for all names."""
    models = []
    for number in range(3):
        path = folder / f"weights-{number}.gguf"
        shutil.copyfile(weights, path)
        template = folder / f"template-{number}.jinja"
        said = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
        template.write_text(f"{said}{number}")
        models.append({"name": f"model-{number}", "path": str(path), "template": str(template)})
    return Settings.model_validate(
        {
            "inference": {
                "engine": "embedded",
                "num_gpus": 0,
                "num_cpus": 0,
                "replicas": _REPLICAS,
                "slots": 2,
                "max_loaded_models": 1,
                "context_length": 2048,
            },
            "embedded": {"threads": 1, "models": models, "store": str(folder / "store")},
            "cache": {"policy": "off"},
            "ingress": {"replicas": 1, "num_cpus": 0},
            "admin": {"port": 0},
        }
    )


def _run(cluster: Cluster, seconds: int) -> Figures:
    with cluster:
        return asyncio.run(_measure(cluster, seconds))


async def _measure(cluster: Cluster, seconds: int) -> Figures:
    await until_up(cluster)
    await asyncio.to_thread(cluster.until_replicas, _REPLICAS, _REPLICAS, 120)
    loads, times = Loads(cluster.pid), list[float]()
    watching = asyncio.get_running_loop().create_task(loads.watch())
    began = time.monotonic()
    chances = [random.Random(seed) for seed in range(_CLIENTS)]  # noqa: S311
    await asyncio.gather(*(_client(cluster.url, each, began, seconds, times) for each in chances))
    watching.cancel()
    await asyncio.wait([watching])
    return {
        "reloads": len(loads.seen),
        "p50_ms": p50_ms(times),
        "p99_ms": p99_ms(times),
        "answers": len(times),
    }


async def _client(
    url: str, chance: random.Random, began: float, seconds: int, times: list[float]
) -> None:
    """One question after the other."""
    while (now := time.monotonic() - began) < seconds:
        keys = [(f"model-{number}", context) for number in range(3) for context in _CONTEXTS]
        turn = int(now / _SHIFT_S) % len(keys)
        model, context = chance.choices(keys[turn:] + keys[:turn], _SHARES)[0]
        options = {"num_predict": 4, "num_ctx": context}
        body = {"model": model, "prompt": secrets.token_hex(4), "options": options}
        stream = Stream(url, {}, json.dumps(body).encode())
        asked = time.perf_counter()
        await stream.connect()
        try:
            await stream.run()
        finally:
            await stream.close()
        if stream.status == 200:
            times.append(time.perf_counter() - asked)


class Loads:
    """Runner processes that came up while it watched."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self.seen: set[int] = set()

    async def watch(self) -> None:
        """Look often enough to see each one: a load alone takes longer."""
        while True:
            self.seen |= await asyncio.to_thread(self._runners)
            await asyncio.sleep(0.2)

    def _runners(self) -> set[int]:
        found = set()
        for process in psutil.Process(self._pid).children(recursive=True):
            try:
                if process.cmdline()[1:4] == _RUNNER:
                    found.add(process.pid)
            except psutil.Error:
                continue
        return found
