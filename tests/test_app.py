"""The deployments as `serve.app` binds them, without a Ray that runs them.

In a process of its own: Ray Serve warns when it is imported, and warnings are errors here.
"""

import json
import subprocess
import sys
from typing import Any

import pytest

pytestmark = pytest.mark.ray

SECRET = "f00d" * 16
SETTINGS = {
    "cache": {"shards": 3},
    "auth": {"keys": [{"sha256": SECRET, "tenant": "ours", "admin": True}]},
    "inference": {"env": {"HF_TOKEN": SECRET}},
}
ACTORS = """
import json, sys
from serve.app import build
from serve.settings import Settings

built = build(Settings.model_validate(json.loads(sys.argv[1])))
actors = built._bound_deployment._deployment_config.deployment_actors
print(json.dumps([actor.model_dump() for actor in actors]))
"""
MADE = """
import asyncio, json, sys
from serve.app import build
from serve.settings import Settings

async def main():
    built = build(Settings.model_validate(json.loads(sys.argv[1])))
    for actor in built._bound_deployment._deployment_config.deployment_actors:
        kind = actor.get_actor_class().__ray_actor_class__
        if kind.__name__ == "Admin":
            made = kind()
            print(json.dumps([actor.name, kind.__name__, len(made._settings.auth.keys)]))
            await made.stop()

asyncio.run(main())
"""


def said(script: str) -> Any:
    command = [sys.executable, "-c", script, json.dumps(SETTINGS)]
    done = subprocess.run(command, capture_output=True, check=True, text=True)
    return json.loads(done.stdout)


def test_shards_are_spread_over_nodes() -> None:
    told = [actor for actor in said(ACTORS) if actor["name"].startswith("cache-")]
    assert [actor["name"] for actor in told] == [f"cache-{index}" for index in range(3)]
    assert {actor["actor_options"]["scheduling_strategy"] for actor in told} == {"SPREAD"}


def test_what_serves_status_tells_of_the_actors_is_json_and_holds_no_secret() -> None:
    """`serve status` and KubeRay ask for it; one thing in it that is not JSON, and they get 500."""
    told = said(ACTORS)
    assert {actor["actor_class"] for actor in told} == {
        "deployments.cache:Cache",
        "deployments.scheduler:Scheduler",
        "deployments.admin:Admin",
    }
    assert SECRET not in json.dumps(told)


def test_an_actor_is_made_of_its_settings() -> None:
    assert said(MADE) == ["admin", "Admin", 1]
