"""Answers from a real engine, given again from memory: by either tier, in either form."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from serve.ports import Model, Report
from serve.wire.names import canonical
from tests.conftest import KEY
from tests.stack import Stack, until

pytestmark = pytest.mark.engine

NO_STORE = {"Cache-Control": "no-store"}
GREEDY = {"temperature": 0, "num_predict": 6}


@pytest.fixture
def http(stack: Stack) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=stack.url, timeout=60) as client:
        yield client


def generation(prompt: str, **more: Any) -> dict[str, Any]:
    return {"model": "smollm2:135m", "prompt": prompt, "options": GREEDY, **more}


def verdict(response: httpx.Response) -> str:
    return response.headers["x-rayllama-cache"]


def test_miss_then_near_then_shared(stack: Stack, http: httpx.Client) -> None:
    body = generation("One question.", stream=False)
    first = http.post("/api/generate", json=body)
    assert verdict(first) == "miss; reason=cold"
    assert "age" not in first.headers
    second = http.post("/api/generate", json=body)
    assert verdict(second) == "hit; tier=near"
    assert int(second.headers["age"]) >= 0
    third = httpx.post(stack.doors[1].url + "/api/generate", json=body)
    assert verdict(third) == "hit; tier=shared"
    assert first.content == second.content == third.content
    assert first.headers["content-type"] == second.headers["content-type"]
    fourth = httpx.post(stack.doors[1].url + "/api/generate", json=body)
    assert verdict(fourth) == "hit; tier=near"


def test_one_entry_serves_both_forms(http: httpx.Client) -> None:
    streamed = http.post("/api/generate", json=generation("Another question."))
    assert verdict(streamed) == "miss; reason=cold"
    again = http.post("/api/generate", json=generation("Another question."))
    assert verdict(again) == "hit; tier=near"
    assert again.content == streamed.content
    assert "content-length" not in again.headers
    whole = http.post("/api/generate", json=generation("Another question.", stream=False))
    assert verdict(whole) == "hit; tier=shared"
    lines = [json.loads(line) for line in streamed.text.splitlines()]
    assert whole.json()["response"] == "".join(line["response"] for line in lines)
    assert whole.json()["total_duration"] == lines[-1]["total_duration"]


def test_chat_is_cached_in_both_dialects_with_its_ids(http: httpx.Client) -> None:
    asked = {
        "model": "smollm2:135m",
        "messages": [{"role": "user", "content": "Say hello."}],
        "temperature": 0,
        "max_tokens": 6,
    }
    first = http.post("/v1/chat/completions", json=asked)
    again = http.post("/v1/chat/completions", json=asked)
    assert (verdict(first), verdict(again)) == ("miss; reason=cold", "hit; tier=near")
    assert first.content == again.content
    streamed = http.post("/v1/chat/completions", json={**asked, "stream": True})
    assert verdict(streamed) == "hit; tier=shared"
    events = [line[6:] for line in streamed.text.splitlines() if line]
    assert events[-1] == "[DONE]"
    text = "".join(
        json.loads(event)["choices"][0]["delta"].get("content", "") for event in events[:-2]
    )
    assert text == first.json()["choices"][0]["message"]["content"]


def test_a_streamed_chat_is_repeated_event_by_event(http: httpx.Client) -> None:
    asked = {
        "model": "smollm2:135m",
        "messages": [{"role": "user", "content": "Stream hello."}],
        "stream": True,
        "seed": 4,
        "max_tokens": 6,
    }
    first = http.post("/v1/chat/completions", json=asked)
    again = http.post("/v1/chat/completions", json=asked)
    assert (verdict(first), verdict(again)) == ("miss; reason=cold", "hit; tier=near")
    assert first.content == again.content


def test_embeddings_are_always_cached(stack: Stack, http: httpx.Client) -> None:
    body = {"model": "all-minilm", "input": ["hello", "world"]}
    first = http.post("/api/embed", json=body)
    assert verdict(first) == "miss; reason=cold"
    assert verdict(http.post("/api/embed", json=body)) == "hit; tier=near"
    other = httpx.post(stack.doors[1].url + "/api/embed", json=body)
    assert verdict(other) == "hit; tier=shared"
    assert first.content == other.content
    old = http.post("/api/embeddings", json={"model": "all-minilm", "prompt": "hello"})
    assert verdict(old) == "miss; reason=cold"
    assert len(old.json()["embedding"]) == 384


def test_a_batch_is_put_together_as_the_engine_would_answer_it(
    stack: Stack, http: httpx.Client
) -> None:
    def texts(*given: str, **headers: str) -> httpx.Response:
        body = {"model": "all-minilm", "input": list(given)}
        return http.post("/api/embed", json=body, headers=headers)

    texts("One sentence.", "Another one.")
    before = len(stack.pool.calls)
    mixed = texts("A third.", "Another one.", "", "One sentence.", "A third.")
    assert verdict(mixed) == "miss; reason=partial"
    assert json.loads(stack.pool.calls[before].body)["input"] == ["A third.", ""]
    fresh = texts("A third.", "Another one.", "", "One sentence.", "A third.", **NO_STORE)
    assert mixed.json()["embeddings"] == fresh.json()["embeddings"]
    assert list(mixed.json()) == list(fresh.json())
    assert mixed.json()["prompt_eval_count"] == pytest.approx(
        fresh.json()["prompt_eval_count"], abs=3
    )
    alone = http.post("/api/embed", json={"model": "all-minilm", "input": "Another one."})
    assert verdict(alone) == "hit; tier=shared"
    assert alone.json()["embeddings"] == mixed.json()["embeddings"][1:2]


def test_a_failing_input_fails_the_batch_as_the_engine_says(http: httpx.Client) -> None:
    body = {"model": "all-minilm", "truncate": False}
    http.post("/api/embed", json={**body, "input": "Short."})
    mixed = http.post("/api/embed", json={**body, "input": ["Short.", "word " * 2000]})
    assert (mixed.status_code, verdict(mixed)) == (400, "miss; reason=partial")
    assert mixed.json() == {"error": "the input length exceeds the context length"}


def test_both_dialects_share_an_entry(http: httpx.Client) -> None:
    talk = [{"role": "user", "content": "Which dialect?"}]
    asked = {"model": "smollm2:135m", "messages": talk, "temperature": 0, "max_tokens": 6}
    first = http.post("/v1/chat/completions", json=asked)
    options = {"temperature": 0, "num_predict": 6}
    native = {"model": "smollm2:135m", "messages": talk, "options": options, "stream": False}
    second = http.post("/api/chat", json=native)
    assert (verdict(first), verdict(second)) == ("miss; reason=cold", "hit; tier=shared")
    answer = first.json()["choices"][0]["message"]["content"]
    assert second.json()["message"]["content"] == answer
    fresh = http.post("/api/chat", json=native, headers=NO_STORE)  # top_p 0.9, not 1.0
    assert fresh.json()["message"]["content"] == answer


def test_the_callers_spelling_is_echoed(http: httpx.Client) -> None:
    body = generation("Who spells?", stream=False)
    http.post("/api/generate", json=body)
    spelled = http.post("/api/generate", json={**body, "model": "SmolLM2:135M"})
    assert verdict(spelled) == "hit; tier=shared"
    assert spelled.json()["model"] == "SmolLM2:135M"


@pytest.mark.parametrize(
    ("more", "headers", "reason"),
    [
        ({"options": {"num_predict": 2}}, {}, "bypass; reason=sampled"),
        ({"options": {"num_predict": 2, "seed": -1}}, {}, "bypass; reason=sampled"),
        ({}, {"Cache-Control": "no-store"}, "bypass; reason=no-store"),
        ({}, {"Cache-Control": "no-cache"}, "bypass; reason=no-cache"),
        ({"prompt": ""}, {}, "bypass; reason=load"),
    ],
)
def test_what_is_not_answered_from_memory_says_why(
    http: httpx.Client, more: dict[str, Any], headers: dict[str, str], reason: str
) -> None:
    body = generation("Say it anew.", stream=False) | more
    for _ in range(2):
        assert verdict(http.post("/api/generate", json=body, headers=headers)) == reason


def test_a_seed_makes_it_repeatable(http: httpx.Client) -> None:
    body = generation("A story.", stream=False, options={"seed": 3, "num_predict": 4})
    assert verdict(http.post("/api/generate", json=body)) == "miss; reason=cold"
    assert verdict(http.post("/api/generate", json=body)) == "hit; tier=near"


def test_another_option_is_another_answer(http: httpx.Client) -> None:
    body = generation("Options count.", stream=False)
    http.post("/api/generate", json=body)
    for options in ({"num_predict": 5}, {"num_ctx": 1024}, {"made_up": 1}):
        other = {**body, "options": GREEDY | options}
        assert verdict(http.post("/api/generate", json=other)) == "miss; reason=cold"


def test_tenants_share_nothing(stack: Stack, http: httpx.Client) -> None:
    body = generation("Whose is it?", stream=False)
    http.post("/api/generate", json=body)
    keyed = stack.doors[2].url + "/api/generate"
    assert httpx.post(keyed, json=body).status_code == 401
    headers = {"Authorization": f"Bearer {KEY}"}
    assert verdict(httpx.post(keyed, json=body, headers=headers)) == "miss; reason=cold"
    assert verdict(httpx.post(keyed, json=body, headers=headers)) == "hit; tier=near"
    assert httpx.post(keyed, json=body).status_code == 401


def test_errors_of_the_engine_are_not_kept(http: httpx.Client) -> None:
    body = {"model": "nope", "prompt": "x", "options": GREEDY}
    for _ in range(2):
        refused = http.post("/api/generate", json=body)
        assert refused.status_code == 404
        assert refused.json() == {"error": "model 'nope' not found"}
        assert verdict(refused) == "miss; reason=unlisted"


def test_a_name_that_replicas_disagree_on_is_served_from_no_cache(stack: Stack) -> None:
    body = generation("Which digest?", stream=False)
    with httpx.Client(base_url=stack.url, timeout=60) as http:
        http.post("/api/generate", json=body)
        assert verdict(http.post("/api/generate", json=body)) == "hit; tier=near"
        answers = stack.doors[0].answers
        name = canonical("smollm2:135m")
        listed = answers.catalogue.view
        other = Report(
            "other",
            listed.engine_version,
            listed.fingerprint,
            {**listed.models, name: Model("0" * 64)},
        )
        stack.run(tell(stack, other))
        stack.run(until(lambda: name not in answers.catalogue.view.models))
        assert verdict(http.post("/api/generate", json=body)) == "miss; reason=unlisted"
        stack.run(until(lambda: name in answers.catalogue.view.models))  # its lease has ended
        assert verdict(http.post("/api/generate", json=body)) == "hit; tier=near"


def test_losing_the_shard_costs_only_warmth(stack: Stack) -> None:
    body = generation("Is it gone?", stream=False)
    door = stack.doors[0]
    with httpx.Client(base_url=door.url, timeout=60) as http:
        first = http.post("/api/generate", json=body)
        stack.run(stack.shard.stop())
        stack.run(until(lambda: not door.answers.has_catalogue))
        lost = http.post("/api/generate", json=body)
        assert verdict(lost) == "miss; reason=no-catalogue"
        assert lost.json()["response"] == first.json()["response"]
        stack.run(stack.restart_shard())
        stack.run(until(lambda: all(door.answers.has_catalogue for door in stack.doors)))
        http.post("/api/generate", json=body)
        assert verdict(http.post("/api/generate", json=body)) == "hit; tier=near"


async def tell(stack: Stack, report: Report) -> None:
    send = await stack.connect()
    while not stack.reporters[-1].connected:
        await asyncio.sleep(0.01)
        await send(report)
    await send(report)
