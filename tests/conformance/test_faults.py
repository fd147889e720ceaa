"""What clients are told when things break, against what a real Ollama told them."""

import os
import signal
import threading
from collections.abc import Generator
from pathlib import Path

import pytest

from serve.conformance.compare import differences
from serve.conformance.permitted import EMBEDDED
from serve.conformance.replay import Answer, Case, cases, replay
from tests.embedded.engines import EngineProcess, running, until

pytestmark = pytest.mark.engine

_FAULTS = {case.id.removeprefix("faults/"): case for case in cases("faults")}
_SIXTH = 6


@pytest.fixture
def engine(tmp_path: Path) -> Generator[EngineProcess, None, None]:
    with running(
        tmp_path, OLLAMA_NUM_PARALLEL="2", OLLAMA_CONTEXT_LENGTH="2048", OLLAMA_MAX_QUEUE="1"
    ) as engine:
        yield engine


def _kill_runner(engine: EngineProcess) -> None:
    os.kill(engine.runner("smollm2")["pid"], signal.SIGKILL)


def _killed_at_sixth(engine: EngineProcess, case: Case) -> Answer:
    killed = threading.Event()

    def on_line(lines: int) -> None:
        if lines >= _SIXTH and not killed.is_set():
            killed.set()
            _kill_runner(engine)

    return replay(engine.url, case, on_line=on_line)


def _killed_when_busy(engine: EngineProcess, case: Case) -> Answer:
    answers: list[Answer] = []
    thread = threading.Thread(target=lambda: answers.append(replay(engine.url, case)))
    thread.start()
    until(lambda: engine.status()["loaded"] and engine.runner("smollm2")["busy"])
    _kill_runner(engine)
    thread.join()
    return answers[0]


def test_a_killed_runner_ends_its_answers_and_the_next_request_loads_again(
    engine: EngineProcess,
) -> None:
    for name in ("runner_killed_generate_stream", "runner_killed_chat_stream"):
        case = _FAULTS[name]
        assert differences(case, _killed_at_sixth(engine, case), EMBEDDED) == []
    case = _FAULTS["runner_killed_generate"]
    assert differences(case, _killed_when_busy(engine, case), EMBEDDED) == []
    case = _FAULTS["after_runner_killed"]
    assert differences(case, replay(engine.url, case), EMBEDDED) == []
    assert engine.counters()["deaths"] == 3
    assert engine.counters()["reloads"] == 0


def test_an_idle_runner_that_was_killed_is_replaced_at_once(engine: EngineProcess) -> None:
    case = _FAULTS["after_runner_killed"]
    replay(engine.url, case)
    _kill_runner(engine)
    assert differences(case, replay(engine.url, case), EMBEDDED) == []


def test_sigterm_cuts_the_connection(engine: EngineProcess) -> None:
    case = _FAULTS["server_sigterm_generate_stream"]

    def on_line(lines: int) -> None:
        if lines == _SIXTH:
            engine.process.send_signal(signal.SIGTERM)

    assert differences(case, replay(engine.url, case, on_line=on_line), EMBEDDED) == []
    assert engine.process.wait(30) == 0


def test_a_full_queue_is_refused(engine: EngineProcess) -> None:
    case = _FAULTS["queue_full"]
    answers: list[Answer] = []
    threads = [
        threading.Thread(target=lambda: answers.append(replay(engine.url, case))) for _ in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    refused = [answer for answer in answers if answer.status == 503]
    assert len(refused) == 10
    assert differences(case, refused[0], EMBEDDED) == []
