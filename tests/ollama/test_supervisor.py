"""One real child process at a time: started, killed, restarted, given up, stopped."""

import json
import os
import signal
from pathlib import Path

import psutil
import pytest

from serve.errors import ConfigError, EngineDied, EngineNotReady, EngineRefused
from serve.ollama.client import EngineClient
from serve.ollama.process import EngineProcess
from serve.ollama.startup import Prepare, until_ready
from serve.ollama.supervisor import Supervisor
from serve.ports import Head
from serve.settings import InferenceSettings, Settings
from tests.ollama.engines import (
    FAULTY_MODEL,
    collect,
    family_of,
    faulty,
    generate,
    is_alive,
    kill_engine,
    marked,
    until,
)


async def test_start_answers_and_stop_leaves_nothing(tmp_path: Path) -> None:
    supervisor = Supervisor(faulty(tmp_path, "runner"))
    await supervisor.start()
    assert supervisor.engine_version == "0.0.1"
    assert supervisor.fingerprint.startswith("ollama/0.0.1 ctx=4096 kv=f16 flash=auto env=")
    assert await supervisor.holdings.digest("Faulty") == "d1"
    assert await supervisor.holdings.digest("unheard-of") == ""
    engine = supervisor.engine_pid
    assert engine is not None
    home = psutil.Process(engine).environ()["HOME"]
    assert Path(home).is_dir()
    await family_of(supervisor.replica_id)
    await supervisor.stop()
    assert marked(supervisor.replica_id) == []
    assert not Path(home).exists()
    await supervisor.stop()
    with pytest.raises(EngineNotReady, match="stopped"):
        await supervisor.ready()


async def test_the_engine_finds_the_identity_in_its_home(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("k")
    async with Supervisor(faulty(tmp_path, identity=str(tmp_path / "key"))) as supervisor:
        assert supervisor.engine_pid is not None
        home = Path(psutil.Process(supervisor.engine_pid).environ()["HOME"])
        assert (home / ".ollama" / "id_ed25519").read_text() == "k"
    with pytest.raises(ConfigError, match="identity"):
        await Supervisor(faulty(tmp_path, identity="/nope")).start()


async def test_the_engine_stays_in_our_session_and_process_group(tmp_path: Path) -> None:
    async with Supervisor(faulty(tmp_path, "runner")) as supervisor:
        for pid in await family_of(supervisor.replica_id):
            assert os.getsid(pid) == os.getsid(0)
            assert os.getpgid(pid) == os.getpgid(0)


async def test_the_configured_models_are_loaded_before_it_is_ready(tmp_path: Path) -> None:
    settings = faulty(tmp_path, models=["faulty", "other"], keep_alive="-1")
    async with Supervisor(settings):
        loads = [json.loads(line) for line in (tmp_path / "loads").read_text().splitlines()]
    assert [(path, body["model"], body["keep_alive"]) for path, body in loads] == [
        ("/api/generate", "faulty", -1),
        ("/api/generate", "other", -1),
    ]


async def test_a_model_for_embeddings_is_loaded_by_its_own_route(tmp_path: Path) -> None:
    async with Supervisor(faulty(tmp_path, "embeds_only", models=["faulty"], keep_alive="5m")):
        path, body = json.loads((tmp_path / "loads").read_text())
    assert path == "/api/embed"
    assert body["input"] == []
    assert body["keep_alive"] == "5m"


async def test_a_load_that_fails_fails_the_start_with_the_engines_last_lines(
    tmp_path: Path,
) -> None:
    supervisor = Supervisor(faulty(tmp_path, "load_fails", models=["faulty"]))
    with pytest.raises(EngineNotReady) as caught:
        await supervisor.start()
    assert "'faulty' could not be loaded: llama-server process has terminated" in str(caught.value)
    assert "no kernel image for this device" in str(caught.value)
    assert marked(supervisor.replica_id) == []


async def test_an_engine_that_exits_at_once_shows_its_last_lines(tmp_path: Path) -> None:
    supervisor = Supervisor(faulty(tmp_path, "exit"))
    with pytest.raises(EngineNotReady) as caught:
        await supervisor.start()
    assert "ended with status 1 before it was ready" in str(caught.value)
    assert str(caught.value).endswith("faulty: cuda error 42\nfaulty: giving up")


async def test_an_engine_that_never_answers_is_ended_after_the_limit(tmp_path: Path) -> None:
    supervisor = Supervisor(faulty(tmp_path, "mute,runner", start_timeout_s=1))
    with pytest.raises(EngineNotReady, match="not ready after 1 s"):
        await supervisor.start()
    assert marked(supervisor.replica_id) == []


async def test_a_port_that_was_taken_meanwhile_is_replaced_by_another(tmp_path: Path) -> None:
    async with Supervisor(faulty(tmp_path, "port_taken_once")) as supervisor:
        assert (tmp_path / "tried").exists()
        assert supervisor.restarts.count == 0
        await supervisor.check()


async def test_a_missing_executable_is_the_operators_to_mend(tmp_path: Path) -> None:
    supervisor = Supervisor(faulty(tmp_path, ollama_binary="no-such-ollama"))
    with pytest.raises(ConfigError, match=r"no-such-ollama.* is not an executable on PATH"):
        await supervisor.start()


async def test_kill_9_fails_what_runs_and_new_calls_wait_for_the_next_engine(
    tmp_path: Path,
) -> None:
    readies: list[None] = []
    supervisor = Supervisor(faulty(tmp_path, "runner"), on_ready=lambda: readies.append(None))
    async with supervisor:
        before, old = await family_of(supervisor.replica_id), await supervisor.ready()
        running = supervisor.stream(generate("stall"))
        assert isinstance(await anext(running), Head)
        assert await anext(running)
        first = await kill_engine(supervisor)
        with pytest.raises(EngineDied, match="unexpected EOF"):
            await anext(running)
        head, body, _ = await collect(supervisor.stream(generate()))
        assert head.status == 200
        assert b'"done":true' in body
        assert supervisor.restarts.count == 1
        assert len(readies) == 2
        assert await supervisor._successor(old) is await supervisor.ready()
        assert supervisor.engine_pid != first
        assert not any(is_alive(pid) for pid in before), "the dead engine's runner too"
        await family_of(supervisor.replica_id)


async def test_a_killed_keeper_takes_the_engine_along_and_both_come_back(tmp_path: Path) -> None:
    async with Supervisor(faulty(tmp_path, "runner")) as supervisor:
        before = await family_of(supervisor.replica_id)
        engine = supervisor.engine_pid
        assert engine is not None
        os.kill(psutil.Process(engine).ppid(), signal.SIGKILL)
        await until(lambda: not any(is_alive(pid) for pid in before))
        await collect(supervisor.stream(generate()))
        await family_of(supervisor.replica_id)


async def test_an_engine_that_keeps_dying_is_given_up(tmp_path: Path) -> None:
    settings = faulty(tmp_path, max_restarts=2)
    async with Supervisor(settings) as supervisor:
        (tmp_path / "exit_now").touch()
        await kill_engine(supervisor)
        with pytest.raises(EngineNotReady, match="died 3 times"):
            await collect(supervisor.stream(generate()))
        with pytest.raises(EngineNotReady, match="died 3 times"):
            await supervisor.check()
        assert supervisor.restarts.count == 2
        assert marked(supervisor.replica_id) == []


async def test_deaths_outside_the_window_are_forgotten(tmp_path: Path) -> None:
    settings = faulty(tmp_path, max_restarts=1, restart_window_s=0.001)
    async with Supervisor(settings) as supervisor:
        for restarts in (1, 2, 3):
            await kill_engine(supervisor)
            await until(lambda expected=restarts: supervisor.restarts.count == expected)  # type: ignore[misc]
            await supervisor.ready()
        await supervisor.check()


async def test_an_engine_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    supervisor = Supervisor(faulty(tmp_path, "ignore_term,runner", stop_timeout_s=0.2))
    await supervisor.start()
    family = await family_of(supervisor.replica_id)
    await supervisor.stop()
    assert not any(is_alive(pid) for pid in family)


async def test_attach_owns_no_process(tmp_path: Path) -> None:
    async with Supervisor(faulty(tmp_path)) as owner:
        url = (await owner.ready()).base_url
        attached = Settings(
            inference=InferenceSettings(engine="attach", url=url, models=["faulty"])
        )
        async with Supervisor(attached) as supervisor:
            assert supervisor.engine_pid is None
            assert supervisor.fingerprint == f"attach/0.0.1 at={url}"
            assert await supervisor.holdings.digest(FAULTY_MODEL) == "d1"
            head, _, _ = await collect(supervisor.stream(generate()))
            assert head.status == 200
            assert (tmp_path / "loads").exists()
        assert owner.engine_pid is not None
        await owner.check()


async def test_an_attached_engine_that_is_gone_is_not_waited_for(tmp_path: Path) -> None:
    async with Supervisor(faulty(tmp_path)) as owner:
        url = (await owner.ready()).base_url
        attached = Settings(inference=InferenceSettings(engine="attach", url=url))
        supervisor = Supervisor(attached)
        await supervisor.start()
    with pytest.raises(EngineNotReady, match="not reachable"):
        await collect(supervisor.stream(generate()))
    with pytest.raises(EngineNotReady, match="not reachable"):
        await supervisor.check()
    await supervisor.stop()
    late = Supervisor(
        Settings(inference=InferenceSettings(engine="attach", url=url, start_timeout_s=0.2))
    )
    with pytest.raises(EngineNotReady, match="not ready after"):
        await late.start()


async def test_a_refusal_of_the_engine_is_an_answer(tmp_path: Path) -> None:
    async with Supervisor(faulty(tmp_path)) as supervisor:
        head, body, _ = await collect(supervisor.stream(generate("refuse")))
        assert (head.status, body) == (404, b'{"error":"model \'x\' not found"}')
        client = await supervisor.ready()
        with pytest.raises(EngineRefused, match="no such path"):
            await client.loaded()
        with pytest.raises(EngineDied, match="does not answer as Ollama does"):
            await client.show("faulty")


async def test_a_restart_that_the_system_refuses_leaves_nobody_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def faulty_spawn(*_: object) -> EngineProcess:
        raise OSError(11, "Resource temporarily unavailable")

    async with Supervisor(faulty(tmp_path)) as supervisor:
        monkeypatch.setattr(EngineProcess, "spawn", faulty_spawn)
        await kill_engine(supervisor)
        with pytest.raises(EngineNotReady, match="supervisor failed: BlockingIOError"):
            await collect(supervisor.stream(generate()))


async def test_a_model_that_loads_too_long_fails_the_start(tmp_path: Path) -> None:
    settings = faulty(tmp_path, "load_hangs", models=["faulty"], load_timeout_s=0.2)
    with pytest.raises(EngineNotReady, match=r"'faulty' was not loaded after 0\.2 s"):
        await Supervisor(settings).start()


async def test_an_engine_that_hangs_fails_its_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve.ollama.client._CONTROL_S", 0.2)
    async with Supervisor(faulty(tmp_path)) as supervisor:
        engine = supervisor.engine_pid
        assert engine is not None
        os.kill(engine, signal.SIGSTOP)
        with pytest.raises(EngineNotReady, match="does not answer"):
            await supervisor.holdings.digest("faulty")
        os.kill(engine, signal.SIGCONT)
        assert await supervisor.holdings.digest("faulty") == "d1"


async def test_a_stopped_supervisor_starts_nothing(tmp_path: Path) -> None:
    supervisor = Supervisor(faulty(tmp_path))
    await supervisor.stop()
    with pytest.raises(EngineNotReady):
        await supervisor.holdings.catalogue.fresh()


async def test_an_engine_that_ends_as_it_becomes_ready_is_restarted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def faulty_until_ready(
        client: EngineClient,
        process: EngineProcess | None,
        settings: InferenceSettings,
        prepare: Prepare | None,
    ) -> str:
        version = await until_ready(client, process, settings, prepare)
        if process is not None and not (tmp_path / "died").exists():
            (tmp_path / "died").touch()
            await process.kill()
        return version

    monkeypatch.setattr("serve.ollama.supervisor.until_ready", faulty_until_ready)
    async with Supervisor(faulty(tmp_path)) as supervisor:
        _, body, _ = await collect(supervisor.stream(generate()))
        assert b'"done":true' in body
        assert supervisor.restarts.count == 1
