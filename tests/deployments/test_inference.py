"""A replica as the ingress sees it, over an engine that fails on demand."""

import asyncio
import gc
import json
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
from msgspec import structs
from pydantic import SecretStr

from deployments.inference import Inference
from deployments.seat import Seat
from serve.errors import RUNNER_DIED, EngineNotReady
from serve.ollama.reporter import Connect, Send
from serve.ollama.supervisor import Supervisor
from serve.ports import Call, Failed, Head, Report, Tail
from serve.settings import CacheSettings, Settings
from tests.ollama.engines import (
    FAULTY_MODEL,
    collect,
    family_of,
    faulty,
    generate,
    is_alive,
    kill_engine,
    marked,
    spelled_out,
    until,
)

ROOT = Path(__file__).parents[2]
LINES = Head(200, "application/x-ndjson")
JSON = "application/json; charset=utf-8"
UNEXPECTED_EOF = b'{"error":"an error was encountered while running the model: unexpected EOF"}'
BUSY = b'{"error":"server busy, please try again.  maximum pending requests exceeded"}'


@asynccontextmanager
async def replica(
    settings: Settings,
    connect: Connect | None = None,
) -> AsyncGenerator[Inference, None]:
    running = await Inference.launch(settings, connect)
    try:
        yield running
    finally:
        await running.stop()


def supervisor_of(running: Inference) -> Supervisor:
    assert running._supervisor is not None
    return running._supervisor


async def test_an_answer_has_a_head_whole_lines_and_a_tail(tmp_path: Path) -> None:
    async with replica(faulty(tmp_path)) as running:
        head, body, tail = await collect(running.stream(generate("torn")))
        assert head == LINES
        assert [json.loads(line)["response"] for line in body.splitlines()] == [
            "first",
            "second",
            "third",
            "b0",
            "",
        ]
        report = await running.report()
        assert tail == Tail("d1", "d1", report.fingerprint)
        await running.check_health()


async def test_attached_engines_have_a_replica_each_and_answer_alike(tmp_path: Path) -> None:
    """The rank says which; one replica takes no call for the other."""
    folders = [tmp_path / name for name in ("a", "b")]
    for folder in folders:
        folder.mkdir()
    async with (
        Supervisor(faulty(folders[0])) as first,
        Supervisor(faulty(folders[1])) as second,
    ):
        urls = [(await each.ready()).base_url for each in (first, second)]
        settings = Settings.model_validate(
            {"pools": {"a": {"engine": "attach", "urls": urls, "models": [FAULTY_MODEL]}}}
        )
        seats = [Seat("a", partial(lambda rank: (f"r{rank}", rank), rank)) for rank in (0, 1)]
        replicas = [await Inference.launch(settings, None, seat) for seat in seats]
        try:
            for folder, running in zip(folders, replicas, strict=True):
                assert (folder / "loads").exists()
                call = structs.replace(generate("torn"), replica="r1")
                head, _, _ = await collect(running.stream(call))
                is_meant = running is replicas[1]
                assert (head.status, head.is_unreached) == (
                    (200, False) if is_meant else (503, True)
                )
            reports = [await running.report() for running in replicas]
            assert len({report.fingerprint for report in reports}) == 1
        finally:
            for running in replicas:
                await running.stop()


async def test_settings_may_come_as_plain_data(tmp_path: Path) -> None:
    data = faulty(tmp_path).model_dump(exclude={"auth"})
    running = Inference.__new__(Inference)
    await Inference.__init__(running, data, watch_parent=False)
    await running.check_health()
    await running.stop()


async def test_a_tag_that_moves_during_the_answer_shows_in_the_tail(tmp_path: Path) -> None:
    async with (
        replica(faulty(tmp_path)) as running,
        aclosing(running.stream(generate("stall"))) as frames,
    ):
        await anext(frames)
        await anext(frames)
        await until((tmp_path / "tags_calls").exists)  # the reading before
        (tmp_path / "digest").write_text("d2")
        (tmp_path / "go").touch()
        *_, tail = [frame async for frame in frames]
        assert isinstance(tail, Tail)
        assert (tail.digest_before, tail.digest_after) == ("d1", "d2")


async def test_a_model_that_is_not_listed_has_no_digest(tmp_path: Path) -> None:
    call = generate()
    unlisted = Call(call.method, call.path, call.body, "r", "registry.ollama.ai/library/x:latest")
    async with replica(faulty(tmp_path)) as running:
        _, _, tail = await collect(running.stream(unlisted))
        assert tail is not None
        assert isinstance(tail, Tail)
        assert (tail.digest_before, tail.digest_after) == ("", "")


@pytest.mark.parametrize("fault", ["error", "no_done"])
async def test_an_answer_that_ended_badly_has_no_tail(fault: str, tmp_path: Path) -> None:
    async with replica(faulty(tmp_path)) as running:
        head, body, tail = await collect(running.stream(generate(fault)))
        assert head == LINES
        assert tail is None
        assert (UNEXPECTED_EOF in body) is (fault == "error")


async def test_a_refusal_is_passed_on_as_it_is(tmp_path: Path) -> None:
    async with replica(faulty(tmp_path)) as running:
        head, body, tail = await collect(running.stream(generate("refuse")))
        assert head == Head(404, JSON)
        assert body == b'{"error":"model \'x\' not found"}'
        assert tail is None


async def test_a_death_before_the_first_byte_is_ollamas_500(tmp_path: Path) -> None:
    async with replica(faulty(tmp_path)) as running:
        answer = await collect(running.stream(generate("die_before")))
        assert answer == (Head(500, JSON, is_unreached=True), UNEXPECTED_EOF, None)
        head, _, tail = await collect(running.stream(generate()))
        assert head == LINES
        assert tail is not None, "the next engine"


@pytest.mark.parametrize("fault", ["die", "cut"])
async def test_a_death_after_the_first_byte_is_told_in_ollamas_words(
    fault: str, tmp_path: Path
) -> None:
    async with replica(faulty(tmp_path)) as running:
        head, body, tail = await collect(running.stream(generate(fault)))
        assert head == LINES
        assert json.loads(body)["response"] == "a"
        assert tail == Failed(RUNNER_DIED)


async def test_calls_beyond_slots_wait_and_beyond_the_queue_are_refused(tmp_path: Path) -> None:
    settings = faulty(tmp_path, slots=1, max_queue=1)
    async with replica(settings) as running:
        stalled = running.stream(generate("stall"))
        await anext(stalled)
        waiting = asyncio.ensure_future(collect(running.stream(generate())))
        await until(lambda: running._gate.waiting == 1)
        refused = await collect(running.stream(generate()))
        assert refused == (Head(503, JSON), BUSY, None)
        tags = Call("GET", "/api/tags", b"", "r2")
        head, _, tail = await collect(running.stream(tags))
        assert head == Head(200, JSON), "control calls don't queue"
        assert tail == Tail("", "", supervisor_of(running).fingerprint)
        assert not waiting.done()
        await stalled.aclose()
        (tmp_path / "go").touch()
        head, _, tail = await waiting
        assert (head, tail is not None) == (LINES, True)


async def test_the_deadline_counts_until_the_first_frame(tmp_path: Path) -> None:
    async with replica(faulty(tmp_path, slots=1)) as running:
        stalled = running.stream(generate("stall", deadline_s=20))
        await anext(stalled)
        head, body, tail = await collect(running.stream(generate(deadline_s=0.05)))
        assert head == Head(504, JSON)
        assert body == b'{"error":"no answer within the deadline of 0.05 seconds"}'
        assert tail is None
        assert running._gate.waiting == 0
        await stalled.aclose()


async def test_closing_the_stream_stops_the_engine_and_frees_the_slot(tmp_path: Path) -> None:
    async with replica(faulty(tmp_path, slots=1)) as running:
        frames = running.stream(generate("endless"))
        await anext(frames)
        await anext(frames)
        await frames.aclose()
        await until((tmp_path / "client_left").exists)
        _, _, tail = await collect(running.stream(generate()))
        assert tail is not None


async def test_calls_wait_for_a_restart_and_reports_follow_it(tmp_path: Path) -> None:
    heard: list[Report] = []

    async def send(report: Report) -> None:
        heard.append(report)

    async def connect() -> Send:
        return send

    settings = faulty(tmp_path).model_copy(update={"cache": CacheSettings(catalogue_poll_s=1000)})
    async with replica(settings, connect) as running:
        await until(lambda: len(heard) == 1)
        assert heard[0].models[FAULTY_MODEL].digest == "d1"
        assert heard[0].engine_version == "0.0.1"
        (tmp_path / "digest").write_text("d2")
        await kill_engine(supervisor_of(running))
        _, _, tail = await collect(running.stream(generate()))
        assert tail is not None
        await until(lambda: len(heard) == 2)
        assert heard[1].models[FAULTY_MODEL].digest == "d2"
        assert heard[1].replica_id == heard[0].replica_id


async def test_an_engine_that_keeps_dying_fails_the_health_check(tmp_path: Path) -> None:
    async with replica(faulty(tmp_path, max_restarts=1)) as running:
        (tmp_path / "exit_now").touch()
        await kill_engine(supervisor_of(running))
        head, body, _ = await collect(running.stream(generate()))
        assert head == Head(503, JSON, is_unreached=True)
        assert b"died 2 times" in body
        with pytest.raises(EngineNotReady):
            await running.check_health()


async def test_serves_destructor_stops_the_engine_once(tmp_path: Path) -> None:
    running = await Inference.launch(faulty(tmp_path, "runner"))
    name = supervisor_of(running).replica_id
    await family_of(name)
    ending = running.__del__()
    assert ending is not None
    await ending
    assert marked(name) == []
    assert running.__del__() is None
    with pytest.raises(EngineNotReady, match="stopped"):
        await running.check_health()
    head, body, _ = await collect(running.stream(generate()))
    assert (head.status, body) == (503, b'{"error":"this replica is stopped"}')
    del running
    gc.collect()


async def test_a_replica_that_watches_its_parent_stops_watching_when_it_stops(
    tmp_path: Path,
) -> None:
    running = await Inference.launch(faulty(tmp_path), watch_parent=True)
    await running.stop()
    assert running._watch is not None
    assert running._watch._stopped.is_set()


async def test_digests_that_cannot_be_read_cost_only_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve.ollama.answers._DIGEST_S", 0.1)
    async with replica(faulty(tmp_path)) as running:
        (tmp_path / "tags_hang").touch()
        head, body, tail = await collect(running.stream(generate()))
        assert head == LINES
        assert body.endswith(b'"done":true}\n')
        assert tail is not None
        assert isinstance(tail, Tail)
        assert (tail.digest_before, tail.digest_after) == ("", "")


async def test_a_start_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(EngineNotReady, match="giving up"):
        await Inference.launch(faulty(tmp_path, "exit,runner"))
    gc.collect()


def start_alone(settings: Settings) -> "subprocess.Popen[str]":
    script = Path(__file__).with_name("lone_replica.py")
    return subprocess.Popen(
        [sys.executable, str(script), spelled_out(settings)],
        stdout=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
    )


async def test_kill_9_of_the_replica_leaves_neither_engine_nor_runner(tmp_path: Path) -> None:
    with start_alone(faulty(tmp_path, "runner,ignore_term")) as process:
        assert process.stdout is not None
        name = process.stdout.readline().strip()
        family = await family_of(name)
        process.kill()
        process.wait()
        await until(lambda: not any(is_alive(pid) for pid in family))


async def test_sigterm_to_the_replica_leaves_nothing_either(tmp_path: Path) -> None:
    with start_alone(faulty(tmp_path, "runner")) as process:
        assert process.stdout is not None
        name = process.stdout.readline().strip()
        process.terminate()
        process.wait()
        await until(lambda: not marked(name))


@pytest.mark.parametrize("template", ["{{ .System }}", "{{ currentDate }}"])
async def test_a_report_says_whose_prompts_may_hold_the_date(template: str, tmp_path: Path) -> None:
    (tmp_path / "template").write_text(template)
    settings = faulty(tmp_path)
    zoned = settings.inference.env | {"TZ": SecretStr("Asia/Kolkata")}
    inference = settings.inference.model_copy(update={"env": zoned})
    async with replica(settings.model_copy(update={"inference": inference})) as running:
        supervisor = supervisor_of(running)
        (tmp_path / "show_hang").touch()
        report = await running.report()
        assert report.models[FAULTY_MODEL].is_dated, "not known yet"
        assert report.utc_offset_s == 19800
        (tmp_path / "show_hang").unlink()
        await until(lambda: bool(supervisor.holdings.dated._known))
        assert (await running.report()).models[FAULTY_MODEL].is_dated is ("Date" in template)
