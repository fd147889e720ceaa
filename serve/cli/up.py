"""`rayllama up`: check the machine, start Serve, wait, say how to use it, and stop cleanly."""

import re
import signal
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import psutil
import yaml

from serve.cli import preflight, record
from serve.cli.child import LOCAL, ServeRun
from serve.cli.deployfile import PROJECT, DeployFile, find, is_fast, load, on_python_proxy, read
from serve.cli.greeting import greeting
from serve.cli.machine import get, has_haproxy
from serve.settings import InferenceSettings

_LOOK_S = 0.2
_ASK_SERVE_EVERY_S = 2.0
_RAY_START_S = 180
_SHUTDOWN_S = 15.0
"""How long Serve may take to shut down before what is left of it is ended."""
_PATIENCE_S = 3.0
_ALL_REPLICAS_S = 30.0
_EXCEPTION = re.compile(r"[A-Za-z_][\w.]*: ")


class Interrupts:
    """SIGINT, SIGTERM and SIGHUP, counted instead of raised: the second one is impatient."""

    def __init__(self) -> None:
        self.count = 0
        self._numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __enter__(self) -> Self:
        self._before = [signal.signal(number, self._note) for number in self._numbers]
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in zip(self._numbers, self._before, strict=True):
            signal.signal(number, handler)

    def _note(self, _number: int, _frame: object) -> None:
        self.count += 1


def up(arguments: Namespace) -> int:
    """Run until interrupted. Returns the exit status. Raises `ConfigError` if it can't start."""
    config = find(arguments.config)
    file = load(config)
    port = file.http_options.port
    path = _effective(config, file, python_proxy=arguments.python_proxy)
    is_proxied = is_fast(file.env) and path == config
    if arguments.address == LOCAL:
        _say_all(preflight.clear_run(port) + preflight.clear_orphans())
        preflight.check_ports(file, haproxy=is_proxied)
    print(preflight.open_files(file))
    _say_all(preflight.findings(file))
    log = record.log_path(port)
    serve = ServeRun(
        path,
        log,
        address=arguments.address,
        is_loopback=file.is_loopback,
        has_edge=is_proxied and file.settings.edge.enabled,
    )
    with Interrupts() as interrupts, _recorded(serve, file, config):
        print(f"starting {_shown(config)}: {_plan(file)}; log: {log}", flush=True)
        serve.start()
        try:
            return _live(serve, file, interrupts, config)
        finally:
            _stop(serve, interrupts)


def down(_arguments: Namespace) -> int:
    """Stop what `rayllama up` started, and end whatever earlier runs left behind."""
    done = []
    for port in record.recorded_ports():
        last = record.Record.read(port)
        owner = last.owner() if last else None
        if last and owner:
            _end_owner(last.url, owner)
            done.append(f"stopped {last.url}")
        done += preflight.clear_run(port)
    done += preflight.clear_orphans()
    _say_all(done or ["nothing to stop"])
    return 0


def _end_owner(url: str, owner: psutil.Process) -> None:
    """Let a `rayllama up` stop by itself; when it can't, end it alone, its rest comes after."""
    print(f"stopping {url} (pid {owner.pid})", flush=True)
    owner.terminate()
    _, alive = psutil.wait_procs([owner], timeout=_SHUTDOWN_S + 3 * _PATIENCE_S)
    if alive:
        owner.kill()
        psutil.wait_procs([owner], timeout=_PATIENCE_S)


def _live(serve: ServeRun, file: DeployFile, interrupts: Interrupts, config: Path) -> int:
    """From start to the end. Returns the exit status."""
    failure = _wait_until_ready(serve, file, interrupts)
    if failure:
        print(f"\nRayllama did not start: {failure}\nMore in {serve.log}\n", flush=True)
        return 1
    if not interrupts.count:
        print(greeting(file, config=_shown(config), log=str(serve.log)), flush=True)
    while not interrupts.count:
        if (status := serve.status()) is not None:
            print(f"\nServe ended by itself (status {status}). The end of {serve.log}:")
            print(serve.tail(15), flush=True)
            return 1
        time.sleep(_LOOK_S)
    return 0


def _wait_until_ready(serve: ServeRun, file: DeployFile, interrupts: Interrupts) -> str:
    """Until `/readyz` says 200, or somebody interrupts. Returns why it failed, or ""."""
    patience = max(
        shape.start_timeout_s + shape.load_timeout_s * max(1, len(shape.models))
        for shape in file.settings.shapes.values()
    )
    deadline = time.monotonic() + _RAY_START_S + patience
    reporter = _Reporter(print)
    while not interrupts.count:
        if get(file.url, "/readyz", timeout_s=6)[0] == 200:
            _wait_for_the_rest(serve, interrupts)
            return ""
        if (status := serve.status()) is not None:
            return f"Serve ended with status {status}; its last words:\n{serve.tail(15)}"
        if failure := reporter.report(serve):
            return failure
        if time.monotonic() > deadline:
            return "it was not ready in time"
        time.sleep(_LOOK_S)
    return ""


def _wait_for_the_rest(serve: ServeRun, interrupts: Interrupts) -> None:
    """It answers; until every replica does. Where Serve's dashboard is silent, there is no wait."""
    deadline = time.monotonic() + _ALL_REPLICAS_S
    while not interrupts.count and time.monotonic() < deadline:
        progress = serve.progress()
        if progress is None or progress.is_complete:
            return
        time.sleep(_LOOK_S)


class _Reporter:
    """Says what Serve is doing, each change once."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._said: set[str] = set()
        self._next = 0.0

    def report(self, serve: ServeRun) -> str:
        """Look every few seconds. Returns why Serve has given up, or ""."""
        if time.monotonic() < self._next:
            return ""
        self._next = time.monotonic() + _ASK_SERVE_EVERY_S
        progress = serve.progress()
        if progress is None:
            return ""
        for name, state in progress.deployments.items():
            self._once(f"  {name}: {state.lower().replace('_', ' ')}")
        troubles = [f"{name}: {last_words(text)}" for name, text in progress.troubles.items()]
        if progress.failure:
            return "\n  ".join(troubles) or last_words(progress.failure)
        for trouble in troubles:
            self._once(f"  {trouble}")
        return ""

    def _once(self, line: str) -> None:
        """Serve tries again; times and numbers alone make no news."""
        seen = re.sub(r"\d+", "", line)
        if seen not in self._said:
            self._said.add(seen)
            self._say(line)


def last_words(message: str, lines: int = 20) -> str:
    """What a message of Serve's says in the end: of a traceback, the last exception alone."""
    kept = [line for line in message.splitlines() if line.strip()]
    for index in range(len(kept) - 1, 0, -1):
        if kept[index - 1].startswith("  ") and _EXCEPTION.match(kept[index]):
            kept = kept[index:]
            break
    return "\n    ".join(kept[-lines:])


def _stop(serve: ServeRun, interrupts: Interrupts) -> None:
    """Shut Serve down; after some seconds, or a second interrupt, end what is left."""
    already = interrupts.count
    print("stopping", flush=True)
    serve.interrupt()
    deadline = time.monotonic() + _SHUTDOWN_S
    while serve.status() is None and time.monotonic() < deadline and interrupts.count <= already:
        time.sleep(_LOOK_S / 4)
    serve.end_rest(patience_s=_PATIENCE_S)
    print("stopped", flush=True)


@contextmanager
def _recorded(serve: ServeRun, file: DeployFile, config: Path) -> Iterator[None]:
    """Keep a record of this run while it lasts."""
    port, here = file.http_options.port, psutil.Process()
    entry = record.Record(
        run=serve.run,
        pid=here.pid,
        born=here.create_time(),
        url=file.url,
        config=str(config),
        log=str(serve.log),
    )
    entry.write(port)
    try:
        yield
    finally:
        record.forget(port)


def _effective(config: Path, file: DeployFile, *, python_proxy: bool) -> Path:
    """The file that Serve gets: the one given, or a copy that does without HAProxy."""
    if not python_proxy and (not is_fast(file.env) or has_haproxy(file.env)):
        return config
    if not python_proxy:
        print(
            "warning: no HAProxy on this machine, so Serve's Python proxy takes its place: all "
            "works, about 30 times slower (on a Mac: `brew install haproxy`)"
        )
    path = record.copy_path(file.http_options.port)
    path.write_text(yaml.safe_dump(on_python_proxy(read(config))), "utf-8")
    return path


def _plan(file: DeployFile) -> str:
    """What is about to start, in few words."""
    pools = "; ".join(_pool(name, shape) for name, shape in file.settings.shapes.items())
    return (
        f"Ray Serve on {file.url}, {file.settings.ingress.replicas} ingress replicas, {pools}, "
        f"{file.settings.cache.shards} cache shards"
    )


def _pool(name: str, shape: InferenceSettings) -> str:
    engine = {"ollama": "Ollama", "embedded": "the embedded engine", "attach": shape.url}
    count = str(len(shape.urls) or shape.replicas)
    if shape.max_replicas is not None:
        count = f"{shape.min_replicas} to {shape.max_replicas}"
    return f"{f'pool {name}: ' if name else ''}{count} inference replicas, {engine[shape.engine]}"


def _shown(config: Path) -> str:
    """A config's path, short where it is one of the project's."""
    return str(config.relative_to(PROJECT)) if config.is_relative_to(PROJECT) else str(config)


def _say_all(lines: list[str]) -> None:
    for line in lines:
        print(line, flush=True)
