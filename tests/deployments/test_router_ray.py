"""Serve's handle with our router: calls arrive where they are sent, many at once."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.ray


def test_calls_reach_the_replica_that_they_name() -> None:
    """Siblings of one request, which hang on routers that match by the request's id."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("router_driver.py"))],
        cwd=ROOT,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "RAY_AUTH_MODE": "disabled",
            "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
            "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "0",
        },
        capture_output=True,
        text=True,
        timeout=180,
        check=True,
    )
    (said,) = [line for line in done.stdout.splitlines() if line.startswith("{")]
    assert json.loads(said) == {
        "answered": 60,
        "astray": 0,
        "replicas": 3,
        "unknown_is_answered": 1,
    }
