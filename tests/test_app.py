"""The deployments as `serve.app` binds them, without a Ray that runs them.

In a process of its own: Ray Serve warns when it is imported, and warnings are errors here.
"""

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.ray

SHARDS = """
import json
from serve.app import build
from serve.settings import Settings

built = build(Settings.model_validate({"cache": {"shards": 3}}))
actors = built._bound_deployment._deployment_config.deployment_actors
print(json.dumps([[actor.name, actor.actor_options["scheduling_strategy"]]
                  for actor in actors if actor.name.startswith("cache-")]))
"""


def test_shards_are_spread_over_nodes() -> None:
    command = [sys.executable, "-c", SHARDS]
    said = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    assert json.loads(said) == [[f"cache-{index}", "SPREAD"] for index in range(3)]
