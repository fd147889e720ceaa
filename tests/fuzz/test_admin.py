"""The admin API under the same fuzz: real shards behind it, over its own port."""

import asyncio
import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
import schemathesis
import uvicorn
from hypothesis import given
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode

from tests.fuzz.judge import Asked, Got, ask, shape_faults
from tests.fuzz.raw import odd_bodies, odd_headers
from tests.fuzz.steer import GOOD, steered
from tests.fuzz.test_ingress import few_or_many, fuzzing, said_of, sent
from tests.stack import until
from tests.web.described import operations
from tests.web.test_admin import back

JUDGED = {f"/admin/cache/{name}" for name in ("explain", "purge", "export")}
"""The routes that read their body: nothing is forbidden elsewhere."""
SCHEMA = schemathesis.openapi.from_dict(steered())
ADMIN = [each for each in operations() if each[1].startswith("/admin/")]
CASES = [
    (verb, path, mode)
    for verb, path in ADMIN
    for mode in GenerationMode
    if mode is GenerationMode.POSITIVE or path in JUDGED
]


@pytest.fixture(scope="module")
def admin() -> Iterator[str]:
    """Its URL."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="admin", daemon=True)
    thread.start()
    exits = AsyncExitStack()

    async def serve() -> str:
        behind = await exits.enter_async_context(back())
        config = uvicorn.Config(behind.app, port=0, log_config=None, lifespan="off")
        server = uvicorn.Server(config)
        serving = loop.create_task(server._serve())
        await until(lambda: server.started)

        async def close() -> None:
            server.should_exit = server.force_exit = True
            await serving

        exits.push_async_callback(close)
        return f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"

    yield asyncio.run_coroutine_threadsafe(serve(), loop).result(60)
    asyncio.run_coroutine_threadsafe(exits.aclose(), loop).result(60)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def judged(asked: Asked, got: Got) -> None:
    """No 5xx at all: nothing stands behind this API that may fail."""
    ours = [f"a {got.said.status}"] if got.said.status >= 500 else []
    assert [*shape_faults(asked, got.said, of_admin=True), *ours] == [], said_of(asked, got)


def still_good(url: str) -> None:
    got = ask(url, Asked("GET", "/admin/cache/stats"))
    assert (got.said.status, len(json.loads(got.said.body)["shards"])) == (200, 2)


@few_or_many
@pytest.mark.parametrize(("verb", "path", "mode"), CASES, ids=str)
def test_each_route(
    admin: str, cases: Counter[str], verb: str, path: str, mode: GenerationMode, times: int
) -> None:
    @fuzzing(20 * times)
    @given(SCHEMA[path][verb].as_strategy(generation_mode=mode), st.sampled_from(sorted(GOOD)))
    def run(case: Case[Any], asked_of: str) -> None:
        if path == "/admin/cache/explain" and isinstance(case.body, dict) and cases["admin"] % 2:
            case.body |= {"path": asked_of, "body": GOOD[asked_of][1]}
        judged(*sent(admin, case))
        cases["admin"] += 1

    run()
    still_good(admin)


@few_or_many
def test_what_no_document_speaks_of(admin: str, cases: Counter[str], times: int) -> None:
    @fuzzing(200 * times)
    @given(
        st.builds(
            Asked,
            st.sampled_from(["POST", "POST", "POST", "GET", "PATCH", "HEAD", "OPTIONS"]),
            st.sampled_from([path for verb, path in ADMIN if verb == "POST"]),
            odd_headers(),
            odd_bodies({"path": "/api/embed", "body": GOOD["/api/embed"][1], "model": "m"}),
            st.booleans(),
        )
    )
    def run(asked: Asked) -> None:
        judged(asked, ask(admin, asked))
        cases["admin raw"] += 1

    run()
    still_good(admin)
