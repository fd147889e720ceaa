"""`rayllama bench`: a running Rayllama measured, or what `join` and `restart` start for it."""

import json
import subprocess
import sys
import tempfile
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from serve.bench import edge, elastic, hit, join, miss, overload, restart, routing, target, trace
from serve.cli import greeting
from serve.cli.deployfile import DEFAULT, read
from serve.cli.machine import get
from serve.errors import ConfigError

_MEASURED = ["hit", "miss", "all", "join", "edge", "trace"]
URL = "http://127.0.0.1:8000"
_OWN_PORT = 8100
_OWN_PORTS = {
    "RAY_SERVE_HAPROXY_STATS_PORT": "8104",
    "RAY_SERVE_HAPROXY_METRICS_PORT": "8105",
    "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": "8106",
    "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": "8107",
    "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": "31100",
    "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": "31199",
    "RAY_SERVE_DIRECT_INGRESS_MIN_GRPC_PORT": "41100",
    "RAY_SERVE_DIRECT_INGRESS_MAX_GRPC_PORT": "41199",
}


def add_to(commands: Any) -> None:
    """The command and its arguments."""
    parser = commands.add_parser("bench", help="measure a Rayllama that runs on this machine")
    parser.add_argument("what", choices=[*_MEASURED, *_ALONE])
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--url", default=URL, help=f"where Rayllama is (default: {URL})")
    parser.add_argument("--streams", type=int, default=200, help="join: identical ones at once")
    parser.add_argument("--replicas", type=int, default=3, help="join: ingress replicas")
    parser.add_argument("--trace", default="", metavar="FILE", help="trace: default: generated")
    parser.add_argument("--requests", type=int, default=20_000, help="trace: generated ones")
    parser.add_argument("--seed", type=int, default=1, help="trace: of the generator")
    parser.add_argument("--entries", type=int, default=100_000, help="restart: in the shard")
    parser.add_argument("--key", default="", help="an API key, where the config asks for one")
    parser.add_argument("--model", default="", help="default: the first that generates text")
    parser.add_argument("--engine", default="", help="miss: the engine's URL (default: found)")
    parser.add_argument("--seconds", type=int, default=5, help="of each run of the load generator")
    parser.add_argument("--rounds", type=int, default=5, help="of each comparison")
    parser.add_argument("--rival", default="", metavar="URL", help="edge: another server, in turn")
    parser.add_argument("--connections", type=int, default=32, help="edge: open at once")
    parser.add_argument("--samples", type=int, default=200, help="miss: first tokens, each way")
    parser.add_argument("--up", metavar="CONFIG", help="start this config if nothing answers")
    parser.set_defaults(command=_bench)


def _bench(arguments: Namespace) -> int:
    if arguments.what == "trace":
        return _trace(arguments)
    if arguments.what in _ALONE:
        figures = {arguments.what: _ALONE[arguments.what](arguments)}
    elif arguments.what == "join" and arguments.url == URL:
        with tempfile.TemporaryDirectory(prefix="rayllama-bench-") as folder:
            config = _own(Path(folder), arguments.replicas)
            arguments.url = f"http://127.0.0.1:{_OWN_PORT}"
            with _running(arguments.url, str(config)):
                figures = _measured(arguments)
    else:
        with _running(arguments.url, arguments.up):
            figures = _measured(arguments)
    for what, found in figures.items():
        for name, value in found.items():
            print(f"{what:7} {name:22} {value}")
    if arguments.json:
        print(json.dumps(figures if arguments.what == "all" else figures[arguments.what]))
    return 0


_LONG_S = 60

_ALONE: dict[str, Callable[[Namespace], dict[str, float | str | None]]] = {
    "restart": lambda given: restart.restart(entries=given.entries, say=_say),
    "elastic": lambda _: elastic.elastic(say=_say),
    "routing": lambda given: routing.routing(seconds=max(_LONG_S, given.seconds), say=_say),
    "overload": lambda given: overload.overload(seconds=max(_LONG_S, given.seconds), say=_say),
}
"""Those that start what they measure."""


def _trace(arguments: Namespace) -> int:
    """A simulation: no Rayllama is asked."""
    found = trace.trace(
        arguments.trace, requests=max(1, arguments.requests), seed=arguments.seed, say=_say
    )
    if arguments.json:
        print(json.dumps(found))
    return 0


def _measured(arguments: Namespace) -> dict[str, dict[str, float | str | None]]:
    headers = {"Authorization": f"Bearer {arguments.key}"} if arguments.key else {}
    if arguments.what != "edge":
        headers |= edge.NOT_THE_EDGE
    found = target.find(arguments.url, arguments.model, headers, engine=arguments.engine)
    figures = {}
    if arguments.what == "edge":
        measured = edge.edge(
            found,
            rounds=arguments.rounds,
            seconds=arguments.seconds,
            connections=max(1, arguments.connections),
            rival=arguments.rival,
            say=_say,
        )
        return {"edge": measured}
    if arguments.what == "join":
        return {"join": join.join(found, streams=arguments.streams, say=_say)}
    if arguments.what != "miss":
        figures["hit"] = hit.hit(
            found, rounds=arguments.rounds, seconds=arguments.seconds, say=_say
        )
    if arguments.what != "hit":
        figures["miss"] = miss.miss(
            found, samples=arguments.samples, rounds=arguments.rounds, say=_say
        )
    return figures


def _say(line: str) -> None:
    print(line, flush=True)


def _own(folder: Path, replicas: int) -> Path:
    """The config of a Rayllama that gets in the way of no other one on this machine."""
    data = read(DEFAULT)
    data["http_options"]["port"] = _OWN_PORT
    data["controller_options"]["runtime_env"]["env_vars"] |= _OWN_PORTS
    data["applications"][0]["args"]["ingress"]["replicas"] = replicas
    data["applications"][0]["args"]["admin"] = {"port": 0}
    path = folder / "join.yaml"
    path.write_text(yaml.safe_dump(data), "utf-8")
    return path


@contextmanager
def _running(url: str, config: str | None) -> Iterator[None]:
    """A Rayllama at `url`: the one that answers, or for the time being one of `config`."""
    if config is None or get(url, "/readyz", timeout_s=6)[0] == 200:
        yield
        return
    _say(f"nothing answers at {url}: starting {config}")
    command = [sys.argv[0], "up", config]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603 - ourselves
        try:
            said = []
            for line in process.stdout or ():
                said.append(line)
                if line == greeting.LAST + "\n":
                    break
            else:
                raise ConfigError(f"{config} did not start:\n{''.join(said)}")
            yield
        finally:
            process.terminate()
            if process.stdout:
                process.stdout.read()
