"""What the edge answers is, byte for byte, what the ingress does: over the recordings' requests,
and for each tenant its own."""

import hashlib
from collections.abc import Iterator

import httpx
import pytest

from serve.conformance.replay import cases
from serve.edge.rules import ROUTES
from serve.settings import Settings
from tests.conformance.conftest import models
from tests.edge.edge_stack import Edge, edge_stack

pytestmark = pytest.mark.engine

FILES = ("generate", "chat", "embed", "openai", "anthropic")
OF_THE_HIT = {"age", "cache-status", "date", "server", "transfer-encoding", "content-length"}
OF_THE_HIT |= {"x-request-id", "x-rayllama-cache"}
"""What may differ: a hit's own, and how its length is told."""
KEYS = {"one": "key-1", "two": "key-2"}


def settings(folder: str, made: list[dict[str, object]]) -> Settings:
    keys = [
        {"sha256": hashlib.sha256(key.encode()).hexdigest(), "tenant": tenant}
        for tenant, key in KEYS.items()
    ]
    return Settings.model_validate(
        {
            "inference": {"num_gpus": 0, "slots": 2, "context_length": 2048},
            "embedded": {"threads": 1, "models": made, "store": folder},
            "cache": {"lookup_timeout_s": 5, "lease_s": 5},
            "auth": {"keys": keys},
            "edge": {"min_hits": 1},
        }
    )


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    folder = tmp_path_factory.mktemp("rayllama")
    with edge_stack(settings(str(folder.parent / "store"), models(folder))) as made:
        yield made


def key(tenant: str) -> dict[str, str]:
    return {"authorization": f"Bearer {KEYS[tenant]}", "accept": "*/*"}


@pytest.mark.slow
def test_answers_of_the_recordings_are_those_of_the_ingress(edge: Edge) -> None:
    at_the_edge: dict[str, int] = {}
    for case in cases(*FILES):
        body = (case.body or "").encode()
        deterministic = b'"temperature":0' in body.replace(b" ", b"") or "embed" in case.path
        if case.method != "POST" or case.path not in ROUTES or not deterministic:
            continue
        if case.recorded.status != 200:
            continue
        answer = edge.until_edge(case.path, body, key("one"))
        if answer is None:
            continue
        url, sent = edge.stack.url + case.path, key("one") | {"accept-encoding": "identity"}
        ingress = httpx.post(url, content=body, headers=sent)
        assert ingress.headers["x-rayllama-cache"] == "hit; tier=near", case.id
        assert answer.body == ingress.content, case.id
        assert {
            name: value for name, value in answer.headers.items() if name not in OF_THE_HIT
        } == {name: value for name, value in ingress.headers.items() if name not in OF_THE_HIT}, (
            case.id
        )
        assert abs(int(answer.headers["age"]) - int(ingress.headers["age"])) <= 5
        assert (
            answer.headers["cache-status"].split("key=")[1].split(";")[0]
            in (ingress.headers["cache-status"])
        )
        at_the_edge[case.path] = at_the_edge.get(case.path, 0) + 1
    assert set(at_the_edge) == set(ROUTES) - {"/api/embeddings"}  # no answer is recorded of that
    assert sum(at_the_edge.values()) >= 20, at_the_edge


def test_a_tenants_answer_is_its_own(edge: Edge) -> None:
    body = b'{"model":"all-minilm","input":"whose is this?"}'
    mine = edge.until_edge("/api/embed", body, key("one"))
    assert mine is not None
    assert mine.headers["cache-status"].count("detail=edge") == 1
    other = edge.proxy.ask("/api/embed", body, key("two"))
    assert other.status == 200
    assert not other.is_edge
    for nobody in ({}, {"authorization": "Bearer key-3"}, {"x-api-key": KEYS["one"] + "x"}):
        refused = edge.proxy.ask("/api/embed", body, nobody | {"accept": "*/*"})
        assert refused.status == 401
    theirs = edge.until_edge("/api/embed", body, key("two"))
    assert theirs is not None
    assert theirs.headers["cache-status"] != mine.headers["cache-status"]
