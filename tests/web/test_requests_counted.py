"""What requests come to, from the ingress's socketless front to the shard's sum over a socket."""

from serve.cache.protocol import Row
from serve.web.requests import requests_of
from tests.cache.world import MODEL, until
from tests.web.cached import TAIL, CachedFront, cached_front
from tests.web.embedding_pool import FaultyEmbedder
from tests.web.scripted_pool import NDJSON, Step

CHAT = (
    b'{"model":"smollm2:135m","messages":[{"role":"user","content":"hi"}],'
    b'"options":{"temperature":0},"stream":false}'
)
END = (
    b'{"model":"smollm2:135m","message":{"role":"assistant","content":"Hi"},"done":true,'
    b'"done_reason":"stop","total_duration":9000000,"prompt_eval_count":10,'
    b'"prompt_eval_duration":1000000,"eval_count":2,"eval_duration":3000000}\n'
)
SCRIPT: list[Step] = [NDJSON, END, TAIL]


def counted(front: CachedFront) -> Row:
    (row,) = front.answers.ledger.drain()
    return row


async def test_a_hit_saves_what_the_generation_took_from_each_tier() -> None:
    async with cached_front(SCRIPT) as front:
        await front.post("/api/chat", CHAT)
        assert counted(front) == Row(MODEL, "default", {"miss": {"cold": 1}})
        for _ in range(2):
            await front.post("/api/chat", CHAT)
        assert counted(front) == Row(MODEL, "default", {"hit": {"near": 2}}, 24, 8_000_000)
        await front.post("/api/chat", CHAT + b" ")
        assert counted(front) == Row(MODEL, "default", {"hit": {"shared": 1}}, 12, 4_000_000)


async def test_known_inputs_of_a_batch_save_their_share() -> None:
    async with cached_front(FaultyEmbedder()) as front:
        await front.post("/api/embed", b'{"model":"all-minilm","input":["a","b"]}')
        front.answers.ledger.drain()
        await front.post("/api/embed", b'{"model":"all-minilm","input":["b","c"]}')
        row = counted(front)
        assert (row.answers, row.tokens, row.gpu_ns) == ({"miss": {"partial": 1}}, 3, 500_000)
        await front.post("/api/embed", b'{"model":"all-minilm","input":"b"}')
        row = counted(front)
        assert (row.answers, row.tokens, row.gpu_ns) == ({"hit": {"shared": 1}}, 3, 500_000)


async def test_the_shard_hears_of_it() -> None:
    async with cached_front(SCRIPT) as front:
        for _ in range(2):
            await front.post("/api/chat", CHAT)
        await front.post("/api/chat", CHAT.replace(b"smollm2", b"made-up"))
        front.answers._books.report()
        (stats,) = await front.answers.shards.stats()
        told = requests_of(stats.counted)
        assert told["hits"] == {"near": 1}
        assert told["misses"] == {"cold": 1, "unlisted": 1}
        assert (told["tokens_saved"], told["gpu_s_saved"]) == (12, 0.004)
        assert list(told["models"]) == ["(other)", "smollm2:135m"]
        assert told["models"]["smollm2:135m"]["hits"] == {"near": 1}
        assert told["tenants"]["default"]["misses"] == told["misses"]
        await until(lambda: front.answers.shards.connected == 1)
