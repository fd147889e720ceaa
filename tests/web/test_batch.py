"""Embedding batches: the pool is asked only for what memory doesn't know."""

import json
from typing import Any

import pytest

from serve.cache import vectors
from serve.cache.entry import VECTOR_TYPE
from serve.cache.vectors import Vector
from serve.errors import RUNNER_DIED
from serve.ports import Head, Tail
from serve.settings import CacheSettings
from tests.asgi import Caller
from tests.cache.world import DIGEST, FINGERPRINT, OTHER, entry, put
from tests.web.cached import SETTINGS, TAIL, CachedFront, cached_front
from tests.web.embedding_pool import FaultyEmbedder

VECTOR = Vector(b"[1]", is_text=True, tokens=1, total_duration=1, load_duration=1)
CHANGED = Tail("other", "other", FINGERPRINT)


async def embed(front: CachedFront, given: object, headers: str = "", **more: Any) -> Caller:
    body = json.dumps({"model": "all-minilm", "input": given, **more}).encode()
    sent = {"cache_control": headers} if headers else {}
    return await front.post("/api/embed", body, **sent)


def verdict(caller: Caller) -> bytes:
    return caller.headers[b"x-rayllama-cache"]


def embedded(caller: Caller) -> list[list[float]]:
    found: list[list[float]] = json.loads(caller.body)["embeddings"]
    return found


@pytest.fixture
def pool() -> FaultyEmbedder:
    return FaultyEmbedder()


async def test_only_what_is_missing_is_asked_for(pool: FaultyEmbedder) -> None:
    async with cached_front(pool) as front:
        first = await embed(front, ["a", "b"])
        assert first.body == pool.body(["a", "b"], ms=1)
        second = await embed(front, ["c", "b", "d", "a"])
        assert pool.asked == [["a", "b"], ["c", "d"]]
        assert second.body == pool.body(["c", "b", "d", "a"], ms=2)
        assert verdict(second) == b"miss; reason=partial"
        assert second.headers[b"cache-status"].startswith(b'rayllama; fwd=partial; key="')
        assert second.headers[b"cache-status"].endswith(b"detail=partial; stored")
        assert second.headers[b"content-length"] == b"%d" % len(second.body)
        assert second.headers[b"content-type"] == first.headers[b"content-type"]


async def test_the_same_batch_has_the_same_bytes_from_each_tier(pool: FaultyEmbedder) -> None:
    async with cached_front(pool) as front:
        first = await embed(front, ["a", "b"])
        mixed = await embed(front, ["b", "c"])
        assert (await embed(front, ["b", "c"])).body == mixed.body
        for texts, whole in ((["a", "b"], first), (["b", "c"], mixed)):
            again = await embed(front, texts, "max-age=60")
            assert (verdict(again), again.body) == (b"hit; tier=shared", whole.body)
        assert len(pool.calls) == 2


async def test_one_text_is_a_batch_of_one(pool: FaultyEmbedder) -> None:
    async with cached_front(pool) as front:
        alone = await embed(front, "a")
        for given in (["a"], ["a", "a"]):
            assert embedded(await embed(front, given)) == embedded(alone) * len(given)
        assert (await embed(front, ["a"])).body == alone.body
        await embed(front, ["a", "b"])
        assert embedded(await embed(front, "b"))[0] != embedded(alone)[0]
        assert pool.asked == [["a"], ["b"]]


async def test_a_text_that_comes_twice_is_asked_for_once(pool: FaultyEmbedder) -> None:
    async with cached_front(pool) as front:
        first = await embed(front, ["a", "b", "a"])
        assert pool.asked == [["a", "b"]]
        assert first.body == pool.body(["a", "b", "a"], ms=1)
        assert verdict(first) == b"miss; reason=cold"


@pytest.mark.parametrize(
    "more", [{"dimensions": 3}, {"truncate": False}, {"options": {"num_ctx": 9}}, {"made_up": 1}]
)
async def test_everything_else_in_the_request_counts(
    pool: FaultyEmbedder, more: dict[str, Any]
) -> None:
    async with cached_front(pool) as front:
        await embed(front, ["a", "b"])
        await embed(front, ["b", "c"], **more)
        assert pool.asked[-1] == ["b", "c"]
        await embed(front, ["c", "d"], **more)
        assert pool.asked[-1] == ["d"]
        assert json.loads(pool.calls[-1].body) == {"model": "all-minilm", "input": ["d"], **more}


async def test_the_callers_spelling_is_repeated(pool: FaultyEmbedder) -> None:
    async with cached_front(pool) as front:
        await embed(front, ["a", "b"])
        for given in ("a", ["a", "b"], ["b", "c"]):
            got = await embed(front, given, model="All-MiniLM:latest")
            assert json.loads(got.body)["model"] == "All-MiniLM:latest"


async def test_one_text_that_fails_fails_the_batch(pool: FaultyEmbedder) -> None:
    pool.refused = "long"
    async with cached_front(pool) as front:
        await embed(front, ["a", "b"])
        for _ in range(2):
            got = await embed(front, ["a", "long", "c"])
            assert got.status == 400
            assert got.body == b'{"error":"the input length exceeds the context length"}'
        assert pool.asked[1:] == [["long", "c"]] * 2


async def test_parts_of_two_models_are_never_put_together(pool: FaultyEmbedder) -> None:
    async with cached_front(pool) as front:
        await embed(front, ["a", "b"])
        pool.model = 2
        pool.tails = [CHANGED, CHANGED]
        got = await embed(front, ["a", "c"])
        assert pool.asked[1:] == [["c"], ["a", "c"]]
        assert got.body == pool.body(["a", "c"])
        assert b"stored" not in got.headers[b"cache-status"]
        assert front.answers.dropped == {"digest": 1}


@pytest.mark.parametrize("tail", [Tail(DIGEST, "other", FINGERPRINT), Tail(DIGEST, DIGEST, "g")])
async def test_nor_of_a_model_that_changed_meanwhile(pool: FaultyEmbedder, tail: Tail) -> None:
    async with cached_front(pool) as front:
        await embed(front, ["a", "b"])
        pool.tails = [tail, TAIL]
        got = await embed(front, ["a", "c"])
        assert pool.asked[1:] == [["c"], ["a", "c"]]
        assert b"stored" in got.headers[b"cache-status"]
        assert verdict(await embed(front, ["c"])) == b"hit; tier=shared"


async def test_an_answer_of_another_form_is_kept_as_a_whole(pool: FaultyEmbedder) -> None:
    pool.more = b',"another_field":1'
    async with cached_front(pool) as front:
        first = await embed(front, ["a", "b"])
        again = await embed(front, ["a", "b"], "max-age=60")
        assert (verdict(again), again.body) == (b"hit; tier=shared", first.body)
        alone = await embed(front, "a")
        assert (verdict(alone), json.loads(alone.body)["another_field"]) == (
            b"miss; reason=cold",
            1,
        )
        twice = await embed(front, ["a", "a"])
        assert twice.body == pool.body(["a", "a"])


@pytest.mark.parametrize("pause_bytes", [1, 1 << 20])
async def test_a_large_batch_is_kept_by_its_inputs(
    pool: FaultyEmbedder, monkeypatch: pytest.MonkeyPatch, pause_bytes: int
) -> None:
    monkeypatch.setattr("serve.cache.batch._LARGE_BYTES", pause_bytes)
    texts = [f"{number}" for number in range(100)]
    async with cached_front(pool) as front:
        first = await embed(front, texts)
        assert first.body == pool.body(texts, ms=1)
        again = await embed(front, texts, "max-age=60")
        assert (verdict(again), again.body) == (b"hit; tier=shared", first.body)
        pool.more = b',"another_field":1'
        others = [f"{number}x" for number in range(100)]
        assert (await embed(front, others)).body == pool.body(others)
        assert len(pool.calls) == 2


@pytest.mark.parametrize("count", [1, 2, 64, 65])
async def test_an_engine_that_dies_in_mid_answer_is_an_error(
    pool: FaultyEmbedder, count: int
) -> None:
    texts = [f"{number}" for number in range(count)]
    async with cached_front(pool) as front:
        await embed(front, "known")
        pool.dies = True
        for given in (texts, [*texts, "known"]):
            native = await embed(front, given)
            assert (native.status, json.loads(native.body)) == (500, {"error": RUNNER_DIED})
            body = json.dumps({"model": "all-minilm", "input": given}).encode()
            openai = await front.post("/v1/embeddings", body)
            assert openai.status == 500
            assert json.loads(openai.body)["error"]["message"] == RUNNER_DIED
        pool.dies = False
        assert (await embed(front, texts)).body == pool.body(texts)


async def test_what_is_too_large_is_not_kept(pool: FaultyEmbedder) -> None:
    settings = SETTINGS.model_copy(update={"max_entry_bytes": 100})
    async with cached_front(pool, settings) as front:
        for _ in range(2):
            assert verdict(await embed(front, ["a", "b"])) == b"miss; reason=cold"
        assert front.answers.dropped == {"too-large": 2}


@pytest.mark.parametrize(
    "packed",
    [
        b"nonsense",
        entry((b"nonsense",), model=OTHER, content_type=VECTOR_TYPE).pack(),
        entry((b"{}",), model=OTHER, content_type="application/json").pack(),
        entry((vectors.pack(VECTOR),), digest="other", content_type=VECTOR_TYPE).pack(),
    ],
)
async def test_what_a_shard_says_of_an_input_is_checked(
    pool: FaultyEmbedder, packed: bytes
) -> None:
    async with cached_front(pool) as front:
        first = await embed(front, "a")
        key = bytes.fromhex(first.headers[b"cache-status"].decode().split('"')[1])
        front.answers.shards.put(put(key, packed, model=OTHER, digest=DIGEST))
        await embed(front, ["a", "b"])
        assert pool.asked[-1] == ["a", "b"]


async def test_a_part_that_is_too_old_is_asked_for_anew(pool: FaultyEmbedder) -> None:
    async with cached_front(pool) as front:
        await embed(front, ["a"])
        front.now.advance(10)
        await embed(front, ["a", "b"])
        front.now.advance(1)
        hit = await embed(front, ["b", "a"])
        assert hit.headers[b"age"] == b"11"  # as old as its oldest part
        for given in (["a", "c"], ["b", "a"]):
            got = await embed(front, given, "max-age=5")
            assert verdict(got) == b"miss; reason=too-old"
            assert pool.asked[-1] == given
            front.now.advance(6)
        assert verdict(await embed(front, ["a", "b"], "max-age=6")) == b"hit; tier=shared"


async def test_only_if_cached_takes_no_part(pool: FaultyEmbedder) -> None:
    async with cached_front(pool) as front:
        await embed(front, ["a"])
        got = await embed(front, ["a", "b"], "only-if-cached")
        assert (got.status, pool.asked) == (504, [["a"]])


async def test_policy_off_asks_for_all(pool: FaultyEmbedder) -> None:
    settings = CacheSettings(policy="off", lease_s=60, catalogue_poll_s=3600)
    async with cached_front(pool, settings) as front:
        for _ in range(2):
            assert verdict(await embed(front, ["a", "b"])) == b"bypass; reason=policy"
        assert pool.asked == [["a", "b"]] * 2


@pytest.mark.parametrize("given", [["a", 1], {"a": 1}, [[1, 2]], 5])
async def test_what_is_no_text_is_left_to_the_engine(given: object) -> None:
    refusal = b'{"error":"invalid input type"}'
    async with cached_front([Head(400, "application/json; charset=utf-8"), refusal]) as front:
        got = await embed(front, given)
        assert (got.status, got.body) == (400, refusal)
        assert json.loads(front.pool.calls[0].body)["input"] == given
