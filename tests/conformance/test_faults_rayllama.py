"""A runner killed in mid-answer, in every dialect through Rayllama: as recorded, or better.

Where Ollama leaves the stream without an end, the dialect's own error comes last, so that no client
takes half an answer for a whole one.
"""

import json
import os
import signal
import threading
from collections.abc import Iterator

import pytest

from serve.conformance.compare import differences
from serve.conformance.permitted import RAYLLAMA
from serve.conformance.replay import Answer, Case, cases, replay
from serve.embedded.routes import STATUS_PATH
from serve.errors import RUNNER_DIED
from serve.ports import Call
from serve.settings import Settings
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
    "runner_killed_generate_stream": _NATIVE,
    "runner_killed_chat_stream": _NATIVE,
    "runner_killed_openai_stream": _OPENAI,
    "runner_killed_completions_stream": _OPENAI,
    "runner_killed_anthropic_stream": _ANTHROPIC,
}
WHOLE = ("runner_killed_generate", "runner_killed_openai", "runner_killed_anthropic")


_TWELFTH = 12
"""An event is two lines or three, and a stream's first ones hold no text."""


@pytest.fixture(scope="module")
def faulty_stack() -> Iterator[Stack]:
    settings = Settings.model_validate(
        {
            "inference": {
                "engine": "embedded",
                "num_gpus": 0,
                "slots": 2,
                "context_length": 2048,
                "models": ["smollm2:135m"],
            },
            "cache": {"lookup_timeout_s": 5, "lease_s": 5},
        }
    )
    with Stack(settings) as stack:
        yield stack


def runner(stack: Stack) -> dict[str, int]:
    """The loaded model's process, as the engine itself tells it; nothing while there is none."""
    status = json.loads(stack.run(_status(stack)))
    return next((one for one in status["loaded"] if "smollm2" in one["name"]), {})


async def _status(stack: Stack) -> bytes:
    call = Call("GET", STATUS_PATH, b"", "status")
    return b"".join([f async for f in stack.pool.replica.stream(call) if isinstance(f, bytes)])


def kill(stack: Stack) -> None:
    os.kill(runner(stack)["pid"], signal.SIGKILL)


def killed_at_sixth(stack: Stack, case: Case) -> Answer:
    killed = threading.Event()

    def on_line(lines: int) -> None:
        if lines >= _TWELFTH and not killed.is_set():
            killed.set()
            kill(stack)

    return replay(stack.url, case, on_line=on_line)


@pytest.mark.parametrize("name", ENDS)
def test_a_stream_ends_with_the_dialects_error(faulty_stack: Stack, name: str) -> None:
    case = FAULTS[name]
    answer = killed_at_sixth(faulty_stack, case)
    assert (answer.status, answer.framing) == (200, "chunked")
    assert answer.body.endswith(ENDS[name])
    assert answer.body.count("[DONE]") == 0
    types = [value for key, value in answer.headers if key.lower() == "content-type"]
    assert types == [v for k, v in case.recorded.headers if k.lower() == "content-type"]


def test_a_response_ends_as_failed(faulty_stack: Stack) -> None:
    answer = killed_at_sixth(faulty_stack, FAULTS["runner_killed_responses_stream"])
    events = [json.loads(line[6:]) for line in answer.body.splitlines() if line[:6] == "data: "]
    assert [event["type"] for event in events[-2:]] == ["error", "response.failed"]
    assert events[-2]["message"] == RUNNER_DIED
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    (item,) = events[-1]["response"]["output"]
    assert item["content"][0]["text"]


@pytest.mark.parametrize("name", WHOLE)
def test_what_is_no_stream_is_the_recorded_error(faulty_stack: Stack, name: str) -> None:
    case = FAULTS[name]
    answers: list[Answer] = []
    thread = threading.Thread(target=lambda: answers.append(replay(faulty_stack.url, case)))
    thread.start()
    until(lambda: runner(faulty_stack).get("busy"))
    kill(faulty_stack)
    thread.join()
    assert differences(case, answers[0], RAYLLAMA) == []


def test_the_next_request_loads_again(faulty_stack: Stack) -> None:
    case = FAULTS["after_runner_killed"]
    replay(faulty_stack.url, FAULTS["after_runner_killed"])
    kill(faulty_stack)
    assert differences(case, replay(faulty_stack.url, case), RAYLLAMA) == []
