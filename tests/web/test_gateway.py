"""Routing, verbs, slashes, Host and Origin: as Ollama's own router answers them."""

import json
from hashlib import sha256
from urllib.parse import urlsplit

import pytest
from starlette.types import Message

from serve.errors import EngineDied, Overloaded
from serve.ports import Head, Tail
from serve.settings import AuthSettings, Key
from tests.asgi import Caller
from tests.web.front import Front
from tests.web.scripted_pool import JSON, NDJSON, line

TAGS = (
    b'{"models":[{"name":"m:latest","model":"m:latest","modified_at":"2026-11-23T14:23:20.8Z",'
    b'"size":1,"digest":"d","details":{}}]}'
)
KEYS = AuthSettings(
    keys=[Key.model_validate({"sha256": sha256(b"alpha").hexdigest(), "tenant": "a"})]
)


async def test_the_root_says_what_ollama_says() -> None:
    front = Front([])
    got = await front.ask("GET", "/")
    assert (got.status, got.body) == (200, b"Ollama is running")
    head = await front.ask("HEAD", "/")
    assert (head.status, head.body) == (200, b"")
    assert head.headers[b"content-length"] == b"17"


async def test_an_unknown_path_is_a_404_in_plain_text() -> None:
    for method, path in [("GET", "/nope"), ("POST", "/api/nope"), ("GET", "/API/tags")]:
        got = await Front([]).ask(method, path, b"{}")
        assert (got.status, got.body) == (404, b"404 page not found")
        assert got.headers[b"content-type"] == b"text/plain"


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/api/chat", b"POST"),
        ("GET", "/v1/chat/completions", b"POST"),
        ("HEAD", "/api/ps", b"GET"),
        ("POST", "/api/tags", b"HEAD, GET"),
        ("OPTIONS", "/api/blobs/x", b"HEAD, POST"),
    ],
)
async def test_another_verb_is_a_405_that_names_the_right_ones(
    method: str, path: str, allow: bytes
) -> None:
    got = await Front([]).ask(method, path)
    assert got.status == 405
    assert got.headers[b"allow"] == allow
    assert got.body == (b"" if method == "HEAD" else b"405 method not allowed")


@pytest.mark.parametrize(
    ("method", "path", "status", "location"),
    [
        ("GET", "/api/tags/", 301, b"/api/tags"),
        ("POST", "/api/chat/", 307, b"/api/chat"),
        ("GET", "//api/tags?x=1", 307, b"/api/tags?x=1"),
        ("GET", "/api/../api/tags", 307, b"/api/tags"),
        ("GET", "/v1/models/a\r\nX:y/", 301, b"/v1/models/a%0D%0AX:y"),
        ("GET", "/v1/models//", 307, b"/v1/models/"),
        ("OPTIONS", "//api/chat", 307, b"/api/chat"),
        ("GET", "/api/tags/..", 307, b"/api"),
        ("GET", "//", 307, b"/"),
        ("GET", "//evil.example/api/tags", 307, b"/evil.example/api/tags"),
        ("GET", "//a%20b", 307, b"/a%2520b"),
    ],
)
async def test_a_path_that_differs_by_slashes_is_redirected(
    method: str, path: str, status: int, location: bytes
) -> None:
    got = await Front([]).ask(method, path)
    assert (got.status, got.headers[b"location"]) == (status, location)
    assert (b"<a href" in got.body) == (method == "GET")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/nope/"),
        ("GET", "/api/chat/"),
        ("POST", "/api/tags/"),
        ("OPTIONS", "/api/tags/"),
        ("GET", "/api/user/keys/"),
    ],
)
async def test_a_slash_too_many_is_a_404_where_no_route_has_the_verb(
    method: str, path: str
) -> None:
    got = await Front([]).ask(method, path)
    assert (got.status, got.body) == (404, b"404 page not found")


@pytest.mark.parametrize("path", ["//evil.example", "/\\evil.example//", "///evil.example/.."])
async def test_no_redirect_leads_away(path: str) -> None:
    got = await Front([]).ask("GET", path)
    assert got.status == 307
    location = got.headers[b"location"].decode()
    assert urlsplit(location).netloc == ""
    assert "\\" not in location


async def test_origins_and_hosts() -> None:
    front = Front([JSON, b'{"version":"0.33.0"}', Tail("", "", "")])
    good = [(b"origin", b"http://localhost:3000")]
    got = await front.ask("GET", "/api/version", headers=good)
    assert got.headers[b"access-control-allow-origin"] == b"http://localhost:3000"
    evil = [(b"origin", b"http://evil.example")]
    for method in ("GET", "OPTIONS"):
        got = await front.ask(method, "/api/version", headers=evil)
        assert (got.status, got.body) == (403, b"")
    got = await front.ask("OPTIONS", "/api/chat", headers=good)
    assert got.status == 204
    assert got.headers[b"access-control-allow-methods"].startswith(b"GET,POST")
    assert got.headers[b"allow"] == b"POST"
    got = await front.ask("GET", "/api/chat", headers=evil)
    assert (got.status, got.headers[b"allow"]) == (403, b"POST")
    stranger = [(b"host", b"evil.example")]
    got = await front.ask("GET", "/api/version", headers=stranger)
    assert got.status == 403
    got = await front.ask("GET", "/api/version", headers=[*stranger, *good])
    assert got.headers[b"access-control-allow-origin"] == good[0][1]
    assert got.status == 403
    own = [(b"origin", b"http://box.local"), (b"host", b"box.local")]
    got = await front.ask("GET", "/api/version", headers=own)
    assert got.status == 200
    assert b"access-control-allow-origin" not in got.headers


@pytest.mark.parametrize(
    ("host", "path", "status"),
    [
        (b"localhost:8000", "/api/chat", 204),
        (b"box.local", "/nope", 204),
        (b"127.0.0.1:8000", "/api/chat", 405),
        (b"127.0.0.1:8000", "/nope", 404),
        (b"evil.example", "/api/chat", 403),
    ],
)
async def test_options_without_an_origin_end_at_names_of_this_machine(
    host: bytes, path: str, status: int
) -> None:
    got = await Front([]).ask("OPTIONS", path, headers=[(b"host", host)])
    assert got.status == status
    assert got.headers.get(b"allow") == (b"POST" if path == "/api/chat" else None)


async def test_a_stream_to_an_allowed_origin_says_so() -> None:
    front = Front([NDJSON, line("", done=True), Tail("", "", "")])
    got = await front.ask(
        "POST",
        "/api/chat",
        b'{"model":"m","messages":[{"role":"user"}]}',
        [(b"origin", b"http://localhost:3000")],
    )
    assert got.headers[b"access-control-allow-origin"] == b"http://localhost:3000"


async def test_repeated_headers_count_together() -> None:
    front = Front([NDJSON, line("", done=True), Tail("", "", "")])
    got = await front.ask(
        "POST",
        "/api/chat",
        b'{"model":"m","messages":[{"role":"user"}],"options":{"temperature":0}}',
        [(b"cache-control", b"no-store"), (b"cache-control", b"max-age=100")],
    )
    assert got.headers[b"x-rayllama-cache"] == b"bypass; reason=no-store"
    keyed = Front([], auth=KEYS)
    twice = [(b"authorization", b"Bearer alpha"), (b"authorization", b"Bearer alpha")]
    assert (await keyed.ask("POST", "/api/chat", b"{}", twice)).status == 401


@pytest.mark.parametrize("sent", [b"a b", b"caf\xe9", b"x" * 129, b"a\tb"])
async def test_a_request_id_that_could_do_harm_goes_no_further(sent: bytes) -> None:
    front = Front([JSON, b"{}"])
    await front.ask("GET", "/api/ps", headers=[(b"x-request-id", sent)])
    assert front.pool.calls[0].request_id.isascii()
    assert front.pool.calls[0].request_id != sent.decode("latin-1")
    await front.ask("GET", "/api/ps", headers=[(b"x-request-id", b"mine-1")])
    assert front.pool.calls[1].request_id == "mine-1"


async def test_a_websocket_is_closed() -> None:
    caller = Caller("GET", "/api/chat")
    caller.scope["type"] = "websocket"
    await caller.run(Front([]).app)
    assert caller.sent == [{"type": "websocket.close", "code": 1000}]


async def test_a_request_id_is_on_every_answer() -> None:
    front = Front([])
    got = await front.ask("GET", "/nope")
    other = await front.ask("GET", "/nope")
    assert got.headers[b"x-request-id"] != other.headers[b"x-request-id"]


async def test_only_who_is_shown_a_model_is_told_of_by_its_user_agent() -> None:
    front = Front([JSON, TAGS, Tail("", "", "")])
    agent = [(b"user-agent", b"GitHubCopilotChat/1")]
    body = b'{"model":"m","prompt":"x","stream":false}'
    for method, path in (("POST", "/api/show"), ("POST", "/api/generate"), ("GET", "/api/tags")):
        await front.ask(method, path, body if method == "POST" else b"", agent)
    agents = {call.path: call.user_agent for call in front.pool.calls}
    assert agents == {
        "/api/show": "GitHubCopilotChat/1",
        "/api/generate": "",
        "/api/tags": "",
    }
    await front.ask("POST", "/api/show", body, [(b"user-agent", b"GitHubCopilotChat/1\x01")])
    assert front.pool.calls[-1].user_agent == ""


@pytest.mark.parametrize("path", ["/api/generate", "/api/show", "/v1/models", "/api/tags"])
async def test_a_key_is_asked_for_in_the_dialect(path: str) -> None:
    front = Front([JSON, TAGS, Tail("", "", "")], auth=KEYS)
    method = "GET" if path in ("/v1/models", "/api/tags") else "POST"
    got = await front.ask(method, path, b"{}")
    assert got.status == 401
    error = json.loads(got.body)["error"]
    assert (error["message"] if path.startswith("/v1") else error).startswith("unauthorized")
    assert front.pool.calls == []
    if method == "GET":
        got = await front.ask(method, path, headers=[(b"x-api-key", b"alpha")])
        assert got.status == 200


async def test_probes_need_no_key() -> None:
    front = Front([JSON, b'{"version":"x"}'], auth=KEYS)
    assert (await front.ask("GET", "/healthz")).body == b"ok"
    got = await front.ask("GET", "/readyz")
    assert (got.status, got.body) == (503, b"the cache has not heard of the engine's models yet")


async def test_not_ready_says_why() -> None:
    got = await Front([EngineDied("gone")]).ask("GET", "/readyz")
    assert (got.status, got.body) == (503, b"gone")
    got = await Front([Head(503, "text/plain"), b"starting"]).ask("GET", "/readyz")
    assert (got.status, got.body) == (503, b"starting")


async def test_a_body_over_the_limit_is_a_413_in_the_dialect() -> None:
    front = Front([])
    for path in ("/api/generate", "/api/show", "/v1/chat/completions"):
        got = await front.ask("POST", path, b"x" * 1001)
        assert got.status == 413
        assert b"too large" in got.body


@pytest.mark.parametrize(
    ("path", "body", "text"),
    [
        ("/api/generate", b"", "missing request body"),
        ("/api/generate", b'{"model": ', "unexpected EOF"),
        (
            "/api/chat",
            b'{"model":"m","messages":"hi"}',
            "json: cannot unmarshal string into Go struct field ChatRequest.messages of type "
            "[]api.Message",
        ),
        (
            "/api/embed",
            b"[1]",
            "json: cannot unmarshal array into Go value of type api.EmbedRequest",
        ),
    ],
)
async def test_a_body_of_the_wrong_form_is_refused_in_ollamas_words(
    path: str, body: bytes, text: str
) -> None:
    front = Front([])
    got = await front.ask("POST", path, body)
    assert (got.status, json.loads(got.body)) == (400, {"error": text})
    assert front.pool.calls == []


async def test_models_are_told_as_openai_tells_them() -> None:
    front = Front([JSON, TAGS, Tail("", "", "")])
    got = await front.ask("GET", "/v1/models")
    assert json.loads(got.body)["data"][0]["id"] == "m:latest"
    got = await front.ask("GET", "/v1/models/m")
    assert json.loads(got.body)["id"] == "m"
    got = await front.ask("GET", "/v1/models/nope")
    assert got.status == 404
    assert json.loads(got.body)["error"]["message"] == "model 'nope:latest' not found"


async def test_a_model_list_that_an_engine_refuses_is_an_error() -> None:
    front = Front([Head(500, "application/json"), b'{"error":"broken"}'])
    got = await front.ask("GET", "/v1/models")
    assert (got.status, json.loads(got.body)["error"]["message"]) == (500, "broken")


async def test_no_answer_is_compressed() -> None:
    front = Front([NDJSON, line("hi", done=True)])
    got = await front.post("/api/chat", b'{"model":"m"}', accept_encoding="gzip, br, zstd")
    assert got.body == line("hi", done=True)
    assert b"content-encoding" not in got.headers


async def test_a_name_that_is_none_is_refused_as_the_models_side_does() -> None:
    front = Front([JSON, TAGS, Tail("", "", "")])
    got = await front.ask("GET", "/v1/models/a b")
    assert (got.status, got.headers[b"content-type"]) == (400, b"application/json")
    assert got.body == (
        b'{"error":{"message":"invalid model name","type":"invalid_request_error",'
        b'"param":null,"code":null}}\n'
    )


@pytest.mark.parametrize("path", ["/api/tags", "/v1/models"])
async def test_what_nobody_foresaw_is_an_error_of_the_routes_dialect(
    path: str, caplog: pytest.LogCaptureFixture
) -> None:
    got = await Front([ZeroDivisionError("a fault")]).ask("GET", path)
    assert got.status == 500
    error = json.loads(got.body)["error"]
    text = error["message"] if path.startswith("/v1/") else error
    request_id = got.headers[b"x-request-id"].decode()
    assert text == f"internal error; the log has more under {request_id}"
    assert f"id={request_id}: unforeseen" in caplog.text
    assert "ZeroDivisionError" in caplog.text


async def test_what_nobody_foresaw_after_the_first_byte_cuts_the_connection() -> None:
    caller = Caller("POST", "/api/pull", b"{}")
    front = Front([NDJSON, b'{"status":"pulling manifest"}\n', ZeroDivisionError("a fault")])
    with pytest.raises(ExceptionGroup):
        await caller.run(front.app)
    assert [message["type"] for message in caller.sent].count("http.response.start") == 1
    assert not caller.is_whole


async def test_no_second_answer_begins_after_the_first() -> None:
    def break_off(_: Message) -> None:
        raise Overloaded

    caller = Caller("GET", "/api/tags")
    caller.on_send = break_off
    with pytest.raises(Overloaded):
        await caller.run(Front([JSON, TAGS]).app)
    assert len(caller.sent) == 1


@pytest.mark.parametrize("body", [b"\xff", b'"\xff"', b"[" * 20_000, b"nope", b"[]"])
@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/api/copy"), ("DELETE", "/api/delete"), ("POST", "/api/pull")]
)
async def test_what_is_wrong_with_a_change_the_engine_says(
    method: str, path: str, body: bytes
) -> None:
    refused = b'{"error":"invalid character"}'
    front = Front([Head(400, JSON.content_type), refused], max_body_bytes=50_000)
    got = await front.ask(method, path, body)
    assert (got.status, got.body) == (400, refused)
    assert [call.body for call in front.pool.calls] == [body]
