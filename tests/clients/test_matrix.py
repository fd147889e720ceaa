"""Every client, every feature: what the README's matrix shows.

In `make test-all` against Rayllama without Ray; in `make clients` against a `rayllama up`.
"""

import asyncio
import gc
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from uuid import uuid4

import pytest

from serve.wire.names import canonical
from tests.clients.asked import CITY, IGNORED, MODEL, THINKING, TOOLS, Absent, Answer, Ask, Client
from tests.clients.frameworks import LangChain, LlamaIndex
from tests.clients.ollamas import OllamaJavaScript, OllamaPython
from tests.clients.sdks import Anthropic, OpenAI
from tests.stack import Pool, until

pytestmark = [
    pytest.mark.engine,
    pytest.mark.slow,
    # Some of these libraries offer no way to close their connections.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

CLIENTS = [OllamaPython, OllamaJavaScript, OpenAI, Anthropic, LangChain, LlamaIndex]
FORMS = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
ENDLESS = Ask("Write the numbers from 1 to 100000, each on a line of its own: 1\n2\n3", tokens=4000)


@pytest.fixture(params=CLIENTS, ids=[kind.name for kind in CLIENTS])
def client(request: pytest.FixtureRequest, served: str) -> Iterator[Client]:
    kind: Callable[[str], Client] = request.param
    yield kind(served)
    gc.collect()  # connections that nobody closes end here, not in some later test


def asked(call: Callable[[Ask], Answer], ask: Ask) -> Answer:
    """What the call gives; skips where the client has no such call."""
    try:
        return call(ask)
    except Absent:
        pytest.skip("the client has no such call")


def new(prompt: str) -> str:
    """A question that nobody has asked yet."""
    return f"{prompt} ({uuid4().hex[:8]})"


def in_parts(answer: Answer, *, stream: bool) -> bool:
    return answer.parts > 1 if stream else answer.parts == 1


@FORMS
def test_chat(client: Client, *, stream: bool) -> None:
    answer = asked(client.chat, Ask("Say hello to a client.", stream=stream))
    assert answer.text
    assert answer.tokens == 5
    assert in_parts(answer, stream=stream)
    assert answer.text == asked(client.chat, Ask("Say hello to a client.", stream=not stream)).text


def test_async(client: Client) -> None:
    ask = Ask("Say hello to a client.")

    async def both() -> list[Answer]:
        calls = [client.chat_async(ask), client.chat_async(replace(ask, stream=True))]
        return await asyncio.gather(*calls)

    try:
        whole, streamed = asyncio.run(both())
    except Absent:
        pytest.skip("the client has no such call")
    assert whole.text == streamed.text == asked(client.chat, ask).text
    assert streamed.parts > whole.parts == 1


@FORMS
def test_completion(client: Client, *, stream: bool) -> None:
    answer = asked(client.complete, Ask("The sea is", stream=stream))
    assert answer.text
    assert answer.tokens in (5, None)
    assert in_parts(answer, stream=stream)


@FORMS
def test_responses(client: Client, *, stream: bool) -> None:
    answer = asked(client.respond, Ask("Say hello to a client.", stream=stream))
    assert answer.text == asked(client.chat, Ask("Say hello to a client.")).text
    assert answer.tokens == 5
    assert in_parts(answer, stream=stream)


@FORMS
def test_tools(client: Client, *, stream: bool) -> None:
    ask = Ask("Weather in Paris?", model=TOOLS, tokens=60, tools=True, stream=stream)
    ways = (client.chat, client.respond) if has(client.respond) else (client.chat,)
    for way in ways:
        assert asked(way, ask).calls == [("get_weather", {"city": "Paris"})]
        told = asked(way, replace(ask, result="rain in Paris"))
        assert told.text or told.calls


@FORMS
def test_thinking(client: Client, *, stream: bool) -> None:
    ask = Ask("Is the sea deep?", model=THINKING, tokens=12, think=True, stream=stream)
    ways = (client.chat, client.respond) if has(client.respond) else (client.chat,)
    for way in ways:
        answer = asked(way, ask)
        assert answer.thinking
        assert "<think>" not in answer.thinking + answer.text


@FORMS
def test_json_schema(client: Client, *, stream: bool) -> None:
    ask = Ask("Name a city as JSON.", tokens=40, schema=CITY, stream=stream)
    ways = (client.chat, client.respond) if has(client.respond) else (client.chat,)
    for way in ways:
        text = asked(way, ask).text
        if client.ignores_schemas:
            assert text == asked(way, replace(ask, schema=None)).text
            pytest.skip(IGNORED)
        assert json.loads(text)["city"] in ("Rome", "Oslo")


def test_embeddings(client: Client) -> None:
    try:
        first, second, again = client.embed(["one", "two", "one"])
    except Absent:
        pytest.skip("the client has no such call")
    assert len(first) == len(second) == 384
    assert first == pytest.approx(again)
    assert first != pytest.approx(second)
    assert sum(number * number for number in first) == pytest.approx(1, abs=1e-3)


def test_models(client: Client) -> None:
    try:
        names = client.models()
    except Absent:
        pytest.skip("the client has no such call")
    assert {canonical(MODEL), canonical(TOOLS)} <= {canonical(name) for name in names}


def test_cached(client: Client) -> None:
    """One answer serves both forms, and the second asker gets the bytes of the first."""
    for way in (client.chat, client.complete, client.respond):
        if not has(way):
            continue
        ask = Ask(new("What is the sea?"))
        cold = asked(way, ask)
        assert "fwd=" in cold.cache_status
        whole, streamed = asked(way, ask), asked(way, replace(ask, stream=True))
        assert "; hit" in whole.cache_status
        assert "; hit" in streamed.cache_status
        assert cold.text == whole.text == streamed.text
        assert streamed.parts > 1
        assert cold.tokens == whole.tokens


def test_concurrent(client: Client) -> None:
    """Eight threads at once, two of them with the same question each."""
    prompts = [new(f"Tell me of {thing}.") for thing in ("stone", "rain", "iron", "salt")] * 2
    asks = [Ask(prompt, stream=at > 3) for at, prompt in enumerate(prompts)]
    clients = [type(client)(client.url) for _ in asks]
    with ThreadPoolExecutor(len(asks)) as pool:
        answers = list(
            pool.map(lambda pair: asked(pair[0].chat, pair[1]), zip(clients, asks, strict=True))
        )
    assert all(answer.text for answer in answers)
    assert [answer.text for answer in answers[:4]] == [answer.text for answer in answers[4:]]


def test_leaving(client: Client, pool: Pool | None) -> None:
    """Twice as many endless streams as there are slots are left: they end, and the next one has an
    answer. Against a `rayllama up`, whose pool can't be looked into, only the latter is seen."""
    for _ in range(8):
        try:
            client.leave(replace(ENDLESS, prompt=new(ENDLESS.prompt)))
        except Absent:
            pytest.skip("the client has no such call")
    if pool is not None:
        running = pool
        asyncio.run(until(lambda: running.open == 0))
    assert asked(client.chat, Ask(new("Are you free?"))).text


@FORMS
def test_errors(client: Client, *, stream: bool) -> None:
    missing, bad = client.raises
    with pytest.raises(Exception, match="model 'nope' not found") as unknown:
        client.chat(Ask("x", model="nope", stream=stream))
    assert raised(unknown.value) == (missing, 404)
    with pytest.raises(Exception, match="does not support tools") as unable:
        client.chat(Ask("x", tools=True, stream=stream))
    assert raised(unable.value) == (bad, 400)


def raised(error: Exception) -> tuple[str, int | None]:
    name = getattr(error, "name", None) or type(error).__name__
    return name, getattr(error, "status_code", None)


def has(call: Callable[[Ask], Answer]) -> bool:
    return getattr(Client, call.__name__) is not getattr(type(call.__self__), call.__name__)  # type: ignore[attr-defined]
