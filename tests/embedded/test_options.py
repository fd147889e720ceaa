"""Options at their limits; the errors are what Ollama 0.33.0 answered."""

from typing import Any

import pytest

from tests.embedded.clients import counting
from tests.embedded.engines import EngineProcess

pytestmark = pytest.mark.engine

_DETOKENIZE = (
    'detokenize error: {"error":{"code":500,"message":"vector::_M_range_check: __n (which is '
    '49152) >= this->size() (which is 49152)","type":"server_error"}}'
)


@pytest.mark.parametrize(
    "options",
    [
        {"num_batch": 0},
        {"num_batch": -1},
        {"num_thread": -3},
        {"main_gpu": -1},
        {"num_gpu": -5},
    ],
)
def test_what_must_be_positive_and_is_not_counts_as_not_given(
    engine: EngineProcess, options: dict[str, int]
) -> None:
    engine.post("/api/generate", {"model": "smollm2:135m"})
    pid = engine.runner("smollm2")["pid"]
    answer = engine.post("/api/generate", counting(2, stream=False, options=options))
    assert answer.status_code == 200
    assert engine.runner("smollm2")["pid"] == pid


@pytest.mark.parametrize("options", [{"num_ctx": -1}, {"num_batch": 0}, {"num_batch": -1}])
def test_embeddings_take_them_too(engine: EngineProcess, options: dict[str, int]) -> None:
    body = {"model": "all-minilm", "input": "hello world", "truncate": False}
    plain = engine.post("/api/embed", body).json()["embeddings"]
    answer = engine.post("/api/embed", body | {"options": options})
    assert answer.status_code == 200
    assert answer.json()["embeddings"] == plain


@pytest.mark.parametrize(
    ("options", "sign"),
    [
        ({"temperature": 1e300}, "+"),
        ({"temperature": -1e300}, "-"),
        ({"top_p": 3.5e38}, "+"),
        ({"repeat_penalty": -1e300, "presence_penalty": 1e300, "min_p": 1e300}, "+"),
    ],
)
@pytest.mark.parametrize("stream", [True, False])
def test_numbers_beyond_a_float32_cannot_be_sent_to_a_runner(
    engine: EngineProcess, options: dict[str, float], sign: str, *, stream: bool
) -> None:
    answer = engine.post("/api/generate", counting(2, stream=stream, options=options))
    text = f"failed to marshal completion request: json: unsupported value: {sign}Inf"
    assert (answer.status_code, answer.json()) == (500, {"error": text})
    large = engine.post("/api/generate", counting(2, stream=False, options={"temperature": 3e38}))
    assert large.status_code == 200


def test_a_bad_format_is_told_before_a_number_that_is_too_large(engine: EngineProcess) -> None:
    body: dict[str, Any] = counting(2, stream=False, options={"temperature": 1e300})
    answer = engine.post("/api/generate", body | {"format": "x"})
    assert answer.json()["error"].startswith("invalid format: ")


def test_a_context_with_a_token_that_the_model_lacks(engine: EngineProcess) -> None:
    body = {"model": "smollm2:135m", "prompt": "Hi", "context": [49152], "stream": False}
    answer = engine.post("/api/generate", body)
    assert (answer.status_code, answer.json()) == (500, {"error": _DETOKENIZE})
