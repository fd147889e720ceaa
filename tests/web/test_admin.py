"""The admin API over real shards: who may call, what it tells, and that it agrees with lookups."""

import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from hashlib import sha256
from time import monotonic
from typing import Any

import pytest
from msgspec import structs

from serve.cache.key import request_key
from serve.cache.service import AnswerCache, Hit
from serve.cache.shard import ShardServer
from serve.cache.shards import shard_of
from serve.ports import Tail
from serve.settings import AuthSettings, CacheSettings
from serve.web.admin import AdminServices
from serve.web.app import create_admin
from serve.web.identity import Directory
from serve.web.origin import Hosts
from tests.asgi import Caller
from tests.cache.world import (
    CHATTED,
    DIGEST,
    FINGERPRINT,
    MODEL,
    OTHER,
    OTHER_DIGEST,
    HandClock,
    at,
    put,
    report,
    shard,
    until,
)
from tests.web.cached import TAIL

SETTINGS = CacheSettings(lease_s=60, lookup_timeout_s=5, catalogue_poll_s=3600, shards=2)
STATS, EXPLAIN = "/admin/cache/stats", "/admin/cache/explain"
CHAT: dict[str, Any] = {
    "model": "smollm2:135m",
    "messages": [{"role": "user", "content": "Hello"}],
    "options": {"temperature": 0},
}
JSON = "application/json; charset=utf-8"


def keys(*known: tuple[str, bool]) -> AuthSettings:
    rows = [
        {"sha256": sha256(key.encode()).hexdigest(), "tenant": "t", "admin": admin}
        for key, admin in known
    ]
    return AuthSettings.model_validate({"keys": rows})


class Back:
    """The admin API's application, and the shards behind it."""

    def __init__(
        self,
        servers: Sequence[ShardServer],
        answers: AnswerCache,
        auth: AuthSettings,
        now: HandClock,
    ) -> None:
        self.servers = servers
        self.answers = answers
        self.now = now
        services = AdminServices(
            answers, Directory(auth), Hosts(loopback=True), now, max_body_bytes=10_000
        )
        self.app = create_admin(services)

    async def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> Caller:
        sent = [(name.replace("_", "-").encode(), v.encode()) for name, v in headers.items()]
        caller = Caller(method, path, body, sent)
        await caller.run(self.app)
        assert caller.is_whole
        return caller

    async def told(self, method: str, path: str, body: object = None) -> Any:
        caller = await self.ask(method, path, b"" if body is None else json.dumps(body).encode())
        assert caller.status == 200, caller.body
        return json.loads(caller.body)

    async def stats(self) -> Any:
        return await self.told("GET", STATS)

    async def explain(self, body: object, path: str = "/api/chat", **more: Any) -> Any:
        return await self.told("POST", EXPLAIN, {"path": path, "body": body, **more})

    async def known(self, native: dict[str, Any], lines: tuple[bytes, ...] = CHATTED) -> None:
        """Have the answer to a request in its shard, stored now."""
        found = await self.answers.lookup(
            "/api/chat", native, model=MODEL, tenant="default", cache_control=b"no-cache"
        )
        assert not isinstance(found, Hit)
        filled = self.answers.fill(found, lines=lines, content_type=JSON, tail=TAIL)
        assert filled is not None
        (await self.answers.shards.stats())  # sent after it on the same connections


@asynccontextmanager
async def back(
    auth: AuthSettings = AuthSettings(),  # noqa: B008 - frozen
    settings: CacheSettings = SETTINGS,
) -> AsyncGenerator[Back]:
    """Two models are known to every shard, `smollm2:135m` and `all-minilm`."""
    async with AsyncExitStack() as stack:
        shards = [await stack.enter_async_context(shard(settings)) for _ in range(settings.shards)]
        for server, _ in shards:
            server.holdings.report(report(**{MODEL: DIGEST, OTHER: OTHER_DIGEST}))
        now = HandClock(1_800_000_000.0)
        addresses = [at(address) for _, address in shards]
        answers = AnswerCache(settings, addresses, clock=monotonic, now=now, serves=False)
        await stack.enter_async_context(answers)
        await until(lambda: answers.has_catalogue and answers.shards.connected == settings.shards)
        yield Back([server for server, _ in shards], answers, auth, now)


async def test_stats_are_told_by_shard_and_in_sum() -> None:
    async with back() as behind:
        for number, server in enumerate(behind.servers):
            for index in range(number + 1):
                server.holdings.put(put(bytes([number, index]) * 8))
            server.holdings.put(put(digest="another"))
        told = await behind.stats()
        assert [shard["entries"] for shard in told["shards"]] == [1, 2]
        total = told["total"]
        assert total["entries"] == total["stored"] == 3
        assert total["refused"] == {"digest": 2}
        assert total["held_bytes"] == sum(shard["held_bytes"] for shard in told["shards"])
        assert (total["replicas"], total["subscribers"]) == (1, 0)  # who looks on is no ingress
        assert "id" not in total


async def test_a_shard_that_is_away_is_said() -> None:
    async with back() as behind:
        await behind.servers[1].stop()
        await until(lambda: behind.answers.shards.connected == 1)
        caller = await behind.ask("GET", STATS)
        assert caller.status == 503
        assert "cache shard" in json.loads(caller.body)["error"]


async def test_a_known_answer_is_explained() -> None:
    async with back() as behind:
        await behind.known(CHAT)
        behind.now.advance(90)
        before = await behind.stats()
        told = await behind.explain(CHAT)
        key = request_key(
            "/api/chat", CHAT, digest=DIGEST, fingerprint=FINGERPRINT, tenant="default"
        )
        assert told == {
            "verdict": "hit",
            "reason": "",
            "may_read": True,
            "may_store": True,
            "route": "/api/chat",
            "model": MODEL,
            "tenant": "default",
            "digest": DIGEST,
            "fingerprint": FINGERPRINT,
            "key": key.hex(),
            "shard": shard_of(key, 2),
            "age_s": 90.0,
            "ttl_s": 3510.0,
            "stored_bytes": told["stored_bytes"],
            "inputs": None,
            "known": None,
            "day": "",
            "given": "",
        }
        assert 100 < told["stored_bytes"] < 1000
        after = await behind.stats()
        assert after == before, "an explanation is not counted"


async def test_another_dialect_and_another_tenant() -> None:
    async with back() as behind:
        await behind.known(CHAT)
        openai = {"model": "smollm2:135m", "messages": CHAT["messages"], "temperature": 0}
        told = await behind.explain(openai, "/v1/chat/completions")
        assert (told["verdict"], told["route"]) == ("hit", "/api/chat")
        told = await behind.explain(CHAT, tenant="theirs")
        assert (told["verdict"], told["reason"]) == ("miss", "cold")


SAMPLED = {**CHAT, "options": {}}
UNLISTED = {**CHAT, "model": "another:1b"}


@pytest.mark.parametrize(
    ("native", "cache_control", "said"),
    [
        (CHAT, "", "hit:"),
        (CHAT, "max-age=91", "hit:"),
        (CHAT, "max-age=89", "miss:too-old"),
        (CHAT, "no-cache", "bypass:no-cache"),
        (CHAT, "no-store", "bypass:no-store"),
        (CHAT, "only-if-cached", "hit:"),
        (SAMPLED, "", "bypass:sampled"),
        (UNLISTED, "", "miss:unlisted"),
        ({**CHAT, "messages": []}, "", "bypass:load"),
        ({**CHAT, "Format": "json"}, "", "bypass:spelling"),
        ({**CHAT, "think": True}, "", "miss:cold"),
    ],
)
async def test_it_says_what_a_lookup_says(
    native: dict[str, Any], cache_control: str, said: str
) -> None:
    async with back() as behind:
        await behind.known(CHAT)
        behind.now.advance(90)
        told = await behind.explain(native, headers={"Cache-Control": cache_control})
        assert f"{told['verdict']}:{told['reason']}" == said
        name = told["model"]
        found = await behind.answers.lookup(
            "/api/chat",
            native,
            model=name,
            tenant="default",
            cache_control=cache_control.encode(),
        )
        if isinstance(found, Hit):
            assert said == "hit:"
            return
        if found.seat is not None:
            found.seat.leave()
        assert said == f"{found.kind}:{found.reason}"


async def test_a_batch_is_explained_by_its_inputs() -> None:
    async with back() as behind:
        vector = b"[-0.33864105,0.2954537,0.27984756]"
        body = b'{"model":"all-minilm","embeddings":[%b],"prompt_eval_count":3}' % vector
        native = {"model": "all-minilm", "input": "one"}
        miss = await behind.answers.lookup("/api/embed", native, model=OTHER, tenant="default")
        assert not isinstance(miss, Hit)
        tail = Tail(OTHER_DIGEST, OTHER_DIGEST, FINGERPRINT)
        assert behind.answers.fill(miss, lines=[body], content_type=JSON, tail=tail)
        if miss.seat is not None:
            miss.seat.leave()
        await behind.answers.shards.stats()
        behind.now.advance(5)
        one = await behind.explain(native, "/api/embed")
        assert (one["verdict"], one["age_s"], one["inputs"]) == ("hit", 5.0, None)
        two = await behind.explain({**native, "input": ["one", "two", "one"]}, "/api/embed")
        assert (two["verdict"], two["reason"]) == ("miss", "partial")
        assert (two["inputs"], two["known"]) == (2, 1)
        none = await behind.explain({**native, "input": ["three", "two"]}, "/api/embed")
        assert (none["verdict"], none["reason"], none["known"]) == ("miss", "cold", 0)


async def test_a_request_is_explained_to_the_letter() -> None:
    """A name that is given twice is a bypass; another JSON library would have lost it."""
    async with back() as behind:
        text = b'{"path":"/api/chat","body":{"model":"smollm2:135m","model":"b","messages":[{}]}}'
        caller = await behind.ask("POST", EXPLAIN, text)
        assert json.loads(caller.body)["reason"] == "spelling"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "missing required field `path`"),
        (b"{", "truncated"),
        (b'{"path":"/api/tags","body":{}}', "path: not one of /api/chat"),
        (b'{"path":"/api/chat","body":[]}', ""),
        (b'{"path":"/api/chat","body":{},"tennant":"x"}', "unknown field `tennant`"),
    ],
)
async def test_what_makes_no_sense_is_refused(body: bytes, said: str) -> None:
    async with back() as behind:
        caller = await behind.ask("POST", EXPLAIN, body)
        assert caller.status == 400
        assert said in json.loads(caller.body)["error"]


async def test_too_large_a_body_is_refused() -> None:
    async with back() as behind:
        assert (await behind.ask("POST", EXPLAIN, b" " * 10_001)).status == 413


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"authorization": "Bearer nobody"}, 401),
        ({"authorization": "Bearer user"}, 403),
        ({"authorization": "Bearer boss"}, 200),
        ({"x_api_key": "boss"}, 200),
    ],
)
async def test_where_there_are_keys_an_admins_is_needed(
    headers: dict[str, str], status: int
) -> None:
    async with back(keys(("user", False), ("boss", True))) as behind:
        assert (await behind.ask("GET", STATS, b"", **headers)).status == status


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "localhost:8001"}, 200),
        ({"host": "evil.example"}, 403),
        ({"host": "localhost:8001", "origin": "http://localhost:8001"}, 200),
        ({"host": "localhost:8001", "origin": "http://localhost:3000"}, 403),
        ({"host": "localhost:8001", "origin": "app://desktop"}, 403),
    ],
)
async def test_pages_of_others_do_not_get_in(headers: dict[str, str], status: int) -> None:
    async with back() as behind:
        assert (await behind.ask("GET", STATS, b"", **headers)).status == status


async def test_other_routes_and_verbs() -> None:
    async with back() as behind:
        assert (await behind.ask("POST", STATS)).status == 405
        assert (await behind.ask("GET", "/api/tags")).status == 404


PURGE = "/admin/cache/purge"


async def held(behind: Back) -> int:
    return int((await behind.stats())["total"]["entries"])


async def test_a_purge_is_tried_first() -> None:
    async with back() as behind:
        await behind.known(CHAT)
        tried = await behind.told("POST", PURGE, {})
        assert (tried["entries"], tried["dry_run"]) == (1, True)
        assert tried["held_bytes"] == (await behind.stats())["total"]["held_bytes"]
        assert (await behind.explain(CHAT))["verdict"] == "hit"
        done = await behind.told("POST", PURGE, {"dry_run": False})
        assert done == {**tried, "dry_run": False}
        assert await held(behind) == 0
        assert (await behind.explain(CHAT))["verdict"] == "miss"


@pytest.mark.parametrize(
    ("which", "left"),
    [
        ({"model": "smollm2:135m"}, 0),
        ({"model": "all-minilm"}, 2),
        ({"tenant": "default"}, 0),
        ({"tenant": "theirs"}, 2),
        ({"older_than_s": 3600}, 2),
        ({"model": "smollm2:135m", "tenant": "theirs"}, 2),
    ],
)
async def test_what_fits_is_purged(which: dict[str, Any], left: int) -> None:
    async with back() as behind:
        await behind.known(CHAT)
        await behind.known({**CHAT, "think": False})
        done = await behind.told("POST", PURGE, {**which, "dry_run": False})
        assert done["entries"] == 2 - left
        assert await held(behind) == left


async def test_one_entry_is_purged_by_the_key_that_explain_tells() -> None:
    async with back() as behind:
        await behind.known(CHAT)
        await behind.known({**CHAT, "think": False})
        key = (await behind.explain(CHAT))["key"]
        assert (await behind.told("POST", PURGE, {"key": key, "dry_run": False}))["entries"] == 1
        assert (await behind.explain(CHAT))["verdict"] == "miss"
        assert (await behind.explain({**CHAT, "think": False}))["verdict"] == "hit"


async def test_tenants_are_told() -> None:
    async with back() as behind:
        await behind.known(CHAT)
        told = await behind.stats()
        total = told["total"]
        assert total["tenants"] == {"default": {"entries": 1, "held_bytes": total["held_bytes"]}}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"key": "abc"}, "key: not 32 hex digits"),
        ({"key": "xyz"}, "key: not 32 hex digits"),
        ({"older_than_s": -1}, "Expected `float` >= 0"),
        ({"modell": "x"}, "unknown field `modell`"),
        ({"model": "a:b:c"}, ""),
        ({"dry_run": "no"}, "Expected `bool`"),
    ],
)
async def test_a_purge_that_makes_no_sense_drops_nothing(body: dict[str, Any], said: str) -> None:
    async with back() as behind:
        await behind.known(CHAT)
        given = {"dry_run": False, **body}
        caller = await behind.ask("POST", PURGE, json.dumps(given).encode())
        assert caller.status == 400
        assert said in json.loads(caller.body)["error"]
        assert await held(behind) == 1


STALE = SETTINGS.model_copy(
    update={"ttl_s": 100, "stale_while_revalidate_s": 50, "stale_if_error_s": 80}
)


@pytest.mark.parametrize(
    ("age_s", "cache_control", "said"),
    [
        (99, "", "hit::"),
        (140, "", "hit:stale:meanwhile"),
        (140, "max-age=200", "miss:stale:if-error"),
        (140, "max-age=120", "miss:too-old:"),
        (140, "only-if-cached", "miss:stale:never"),
        (160, "", "miss:stale:if-error"),
        (160, "stale-if-error=10", "miss:stale:never"),
    ],
)
async def test_an_answer_past_its_time(age_s: float, cache_control: str, said: str) -> None:
    async with back(settings=STALE) as behind:
        await behind.known(CHAT)
        behind.now.advance(age_s)
        told = await behind.explain(CHAT, headers={"Cache-Control": cache_control})
        assert f"{told['verdict']}:{told['reason']}:{told['given']}" == said
        assert told["ttl_s"] == 100 - age_s
        found = await behind.answers.lookup(
            "/api/chat", CHAT, model=MODEL, tenant="default", cache_control=cache_control.encode()
        )
        if isinstance(found, Hit):
            assert said == "hit::"
            return
        if found.seat is not None:
            found.seat.leave()
        assert told["reason"] == found.reason
        stale = found.stale
        given = (
            ""
            if told["given"] == ""
            else "meanwhile"
            if stale is not None and stale.meanwhile
            else "if-error"
            if stale is not None and stale.if_error
            else "never"
        )
        assert told["given"] == given


async def test_an_answer_that_may_hold_the_date_ends_with_the_day() -> None:
    async with back() as behind:
        dated = report()
        models = {MODEL: structs.replace(dated.models[MODEL], is_dated=True)}
        for server in behind.servers:
            assert server.holdings.report(structs.replace(dated, models=models))
            server.publish()
        await until(lambda: behind.answers.catalogue.view.models[MODEL].is_dated)
        left_s = 86400 - behind.now() % 86400
        behind.now.advance(left_s - 600)
        await behind.known(CHAT)
        told = await behind.explain(CHAT)
        assert (told["verdict"], told["ttl_s"]) == ("hit", 600)
        assert told["day"] == "2027-01-15"
        behind.now.advance(700)
        assert (await behind.explain(CHAT))["reason"] == "cold"


async def test_a_pause_is_told() -> None:
    async with back() as behind:
        await behind.known(CHAT)
        assert await behind.told("POST", "/admin/cache/pause") == {"is_paused": True}
        told = await behind.explain(CHAT)
        assert (told["verdict"], told["reason"]) == ("bypass", "paused")
        assert (await behind.stats())["total"]["is_paused"] is True
        assert await behind.told("POST", "/admin/cache/resume") == {"is_paused": False}
        assert (await behind.explain(CHAT))["verdict"] == "hit"
        assert (await behind.stats())["total"]["is_paused"] is False


@pytest.mark.parametrize(
    "body", [b"\xff", b'"\xff"', b'{"body":' + b"[" * 9_000, b'{"model": 1}', b"nope"]
)
async def test_a_body_that_is_none_is_refused(body: bytes) -> None:
    async with back() as behind:
        for path in (EXPLAIN, "/admin/cache/purge", "/admin/cache/export"):
            caller = await behind.ask("POST", path, body)
            assert (caller.status, caller.headers[b"content-type"]) == (400, JSON.encode())
            assert json.loads(caller.body)["error"]


async def test_what_nobody_foresaw_is_an_error_as_any_other(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fails() -> dict[str, Any]:
        raise ZeroDivisionError("a fault")

    async with back() as behind:
        services = AdminServices(
            behind.answers,
            Directory(AuthSettings()),
            Hosts(loopback=True),
            behind.now,
            max_body_bytes=10,
            pools=[fails],
        )
        caller = Caller("GET", "/admin/fleet")
        await caller.run(create_admin(services))
    assert (caller.status, caller.headers[b"content-type"]) == (500, JSON.encode())
    assert json.loads(caller.body) == {"error": "internal error; the log has more"}
    assert "ZeroDivisionError" in caplog.text
