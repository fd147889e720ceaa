"""A pool as an operator sees it, from the scheduler to the command's table."""

from msgspec import structs

from serve.cli.fleet import table
from serve.fleet.placement import Policy
from serve.fleet.schedule import Schedule
from serve.fleet.view import view
from tests.fleet.pools import Desk, standing, wanted

NAME, ALIAS = "registry.ollama.ai/library/smollm2:135m", "registry.ollama.ai/library/smollm2:latest"


def test_a_view_tells_what_runs_where() -> None:
    desk = Desk(Schedule(Policy()))
    told = structs.replace(
        standing("r1", loaded=(("w1", 2048),), present=("w1", "w2"), room=2),
        ids={NAME: "w1", ALIAS: "w1"},
        digests={NAME: "d1", ALIAS: "d1"},
        engine_version="0.33.0",
        last_error="the engine ended with status 1",
    )
    desk.schedule.report(told, desk.now)
    desk.schedule.report(standing("r2"), desk.now)
    desk.schedule.running(frozenset({"r1"}), desk.now)
    desk.grant(wanted(ALIAS))
    shown = view(desk.schedule)
    first, second = shown.pop("replicas")
    assert shown == {"slots": 2, "in_flight": 1, "waiting": 0}
    assert first == {
        "replica": "r1",
        "state": "running",
        "slots": 2,
        "free": 1,
        "loaded": [
            {"model": "smollm2:135m", "num_ctx": 2048, "state": "loaded", "in_flight": 1},
        ],
        "models": {"smollm2:135m": "d1", "smollm2:latest": "d1"},
        "engine_version": "0.33.0",
        "last_error": "the engine ended with status 1",
    }
    assert (second["state"], second["free"]) == ("starting or leaving", 0)
    lines = table({"pool": "default", **shown, "replicas": [first, second]}).splitlines()
    assert lines[0] == "pool default: 1 of 2 slots taken, 0 waiting"
    assert "smollm2:135m (2048, loaded, 1)" in lines[1]
    assert lines[2].strip() == "the engine ended with status 1"
    assert "r2" in lines[3]
