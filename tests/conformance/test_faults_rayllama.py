"""What breaks in mid-answer, and a full queue, in every dialect through Rayllama: as recorded, or
better.

Where Ollama leaves the stream without an end, the dialect's own error comes last, so that no client
takes half an answer for a whole one. The same on a real Ollama, where there is one.
"""

import json
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace

import psutil
import pytest

from serve.conformance.compare import differences
from serve.conformance.permitted import RAYLLAMA, RAYLLAMA_ON_OLLAMA
from serve.conformance.replay import Answer, Case, cases, replay
from serve.embedded.routes import STATUS_PATH
from serve.errors import RUNNER_DIED
from serve.ports import Call
from serve.settings import Settings
from tests.conformance.real import NEEDED, serving, store
from tests.embedded.engines import until
from tests.stack import Stack

pytestmark = pytest.mark.engine

FAULTS = {case.id.removeprefix("faults/"): case for case in cases("faults")}
_NATIVE = f'{{"error":"{RUNNER_DIED}"}}\n'
_OPENAI = (
    f'data: {{"error":{{"message":"{RUNNER_DIED}","type":"api_error",'
    '"param":null,"code":null}}\n\n'
)
_ANTHROPIC = (
    'event: error\ndata: {"type":"error","error":'
    f'{{"type":"api_error","message":"{RUNNER_DIED}"}}}}\n\n'
)
ENDS = {
    "generate_stream": _NATIVE,
    "chat_stream": _NATIVE,
    "openai_stream": _OPENAI,
    "completions_stream": _OPENAI,
    "anthropic_stream": _ANTHROPIC,
}
STREAMS = (*ENDS, "responses_stream")
TERMINATED = ("generate_stream", "openai_stream", "anthropic_stream")
WHOLE = ("runner_killed_generate", "runner_killed_openai", "runner_killed_anthropic")
FULL = ("queue_full", "queue_full_v1_chat_completions", "queue_full_v1_messages")
_NEXT = FAULTS["after_runner_killed"]
COMPUTED = replace(_NEXT, headers=_NEXT.headers | {"Cache-Control": "no-cache"})
"""A request that the engine must answer, though the answer is known."""

_SIXTH = 6
"""The chunk after which the recorded server was broken."""


def faulty(**inference: object) -> Settings:
    """Settings for an engine with its model loaded."""
    given = {"num_gpus": 0, "slots": 2, "context_length": 2048, "models": ["smollm2:135m"]}
    cache = {"lookup_timeout_s": 5, "lease_s": 5}
    return Settings.model_validate({"inference": given | inference, "cache": cache})


@pytest.fixture(scope="module")
def faulty_stack() -> Iterator[Stack]:
    with Stack(faulty(engine="embedded")) as stack:
        yield stack


@pytest.fixture(scope="module")
def stack_on_ollama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("ollama")
    with serving(folder):
        pass
    with Stack(faulty(engine="ollama", models_dir=str(store(folder)))) as stack:
        yield stack


def runner(stack: Stack) -> dict[str, int]:
    """The loaded model's process, as the engine itself tells it; nothing while there is none."""
    status = json.loads(stack.run(_status(stack)))
    return next((one for one in status["loaded"] if "smollm2" in one["name"]), {})


async def _status(stack: Stack) -> bytes:
    call = Call("GET", STATUS_PATH, b"", "status")
    return b"".join([f async for f in stack.pool.replica.stream(call) if isinstance(f, bytes)])


def engine(stack: Stack) -> psutil.Process:
    """The server of which the runners are children."""
    supervisor = stack.pool.replica._supervisor
    assert supervisor is not None
    assert supervisor.engine_pid is not None
    return psutil.Process(supervisor.engine_pid)


def kill(stack: Stack) -> None:
    os.kill(runner(stack)["pid"], signal.SIGKILL)


def kill_runners(stack: Stack) -> None:
    for child in engine(stack).children():
        child.kill()


def terminate(stack: Stack) -> None:
    engine(stack).terminate()


def broken_at_sixth(stack: Stack, case: Case, breaks: Callable[[Stack], None]) -> Answer:
    """After as many lines as the recorded answer had in its first six chunks."""
    broken = threading.Event()
    sixth = "".join(case.recorded.frames[:_SIXTH]).count("\n")

    def on_line(lines: int) -> None:
        if lines >= sixth and not broken.is_set():
            broken.set()
            breaks(stack)

    answer = replay(stack.url, case, on_line=on_line)
    assert broken.is_set()
    return answer


def check_end(name: str, answer: Answer) -> None:
    """Complete as HTTP, with an end that the dialect's clients understand: an error."""
    assert (answer.status, answer.framing) == (200, "chunked")
    assert answer.body.count("[DONE]") == 0
    if name in ENDS:
        assert answer.body.endswith(ENDS[name])
        return
    events = [json.loads(line[6:]) for line in answer.body.splitlines() if line[:6] == "data: "]
    assert [event["type"] for event in events[-2:]] == ["error", "response.failed"]
    assert events[-2]["message"] == RUNNER_DIED
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    (item,) = events[-1]["response"]["output"]
    assert item["content"][0]["text"]


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_ends_with_the_dialects_error(faulty_stack: Stack, name: str) -> None:
    case = FAULTS[f"runner_killed_{name}"]
    answer = broken_at_sixth(faulty_stack, case, kill)
    check_end(name, answer)
    assert differences(case, answer, RAYLLAMA) == []


@pytest.mark.parametrize("name", TERMINATED)
def test_so_does_one_whose_engine_is_terminated(faulty_stack: Stack, name: str) -> None:
    case = FAULTS[f"server_sigterm_{name}"]
    until(lambda: replay(faulty_stack.url, COMPUTED).status == 200)
    answer = broken_at_sixth(faulty_stack, case, terminate)
    check_end(name, answer)
    assert differences(case, answer, RAYLLAMA) == []


class TestOnOllama:
    pytestmark = NEEDED

    @pytest.mark.parametrize("name", STREAMS)
    def test_a_stream_ends_with_the_dialects_error(self, stack_on_ollama: Stack, name: str) -> None:
        case = FAULTS[f"runner_killed_{name}"]
        answer = broken_at_sixth(stack_on_ollama, case, kill_runners)
        check_end(name, answer)
        assert differences(case, answer, RAYLLAMA_ON_OLLAMA) == []

    @pytest.mark.parametrize("name", TERMINATED)
    def test_so_does_one_whose_engine_is_terminated(
        self, stack_on_ollama: Stack, name: str
    ) -> None:
        case = FAULTS[f"server_sigterm_{name}"]
        until(lambda: replay(stack_on_ollama.url, COMPUTED).status == 200)
        answer = broken_at_sixth(stack_on_ollama, case, terminate)
        check_end(name, answer)
        assert differences(case, answer, RAYLLAMA_ON_OLLAMA) == []


@pytest.fixture(scope="module")
def full_stack() -> Iterator[Stack]:
    """One long answer is computed, and another waits."""
    with Stack(faulty(engine="embedded", slots=1, max_queue=1)) as stack, ExitStack() as clients:
        gate = stack.pool.replica._gate
        clients.enter_context(asking(stack, "1, 2, 3, 4, 5, 6,"))
        until(lambda: gate.at_work == 1)
        clients.enter_context(asking(stack, "2, 4, 6, 8, 10, 12,"))
        until(lambda: gate.waiting == 1)
        yield stack


def asking(stack: Stack, prompt: str) -> socket.socket:
    """A client that has asked for a long answer, and leaves when it is closed."""
    options = {"num_predict": 2000, "temperature": 0}
    given = {"model": "smollm2:135m", "prompt": prompt, "raw": True, "options": options}
    body = json.dumps(given).encode()
    host, _, port = stack.url.removeprefix("http://").partition(":")
    client = socket.create_connection((host, int(port)))
    head = f"POST /api/generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    client.sendall(head.encode() + body)
    return client


@pytest.mark.parametrize("name", FULL)
def test_a_full_queue_is_refused(full_stack: Stack, name: str) -> None:
    case = FAULTS[name]
    answer = replay(full_stack.url, case)
    assert answer.status == (529 if case.path == "/v1/messages" else 503)
    assert differences(case, answer, RAYLLAMA) == []


@pytest.mark.parametrize("name", WHOLE)
def test_what_is_no_stream_is_the_recorded_error(faulty_stack: Stack, name: str) -> None:
    case = FAULTS[name]
    answers: list[Answer] = []
    until(lambda: replay(faulty_stack.url, COMPUTED).status == 200)
    thread = threading.Thread(target=lambda: answers.append(replay(faulty_stack.url, case)))
    thread.start()
    until(lambda: runner(faulty_stack).get("busy"))
    kill(faulty_stack)
    thread.join()
    assert differences(case, answers[0], RAYLLAMA) == []


def test_the_next_request_loads_again(faulty_stack: Stack) -> None:
    until(lambda: replay(faulty_stack.url, COMPUTED).status == 200)
    kill(faulty_stack)
    assert differences(COMPUTED, replay(faulty_stack.url, COMPUTED), RAYLLAMA) == []
    assert runner(faulty_stack)
