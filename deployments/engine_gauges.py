"""The restarts of engines as a Ray metric of the replicas that own them."""

from functools import cache

from ray.util import metrics

from serve.ollama.restarts import Cause


@cache
def _restarts() -> metrics.Counter:
    """Once a process, and not before the first: Ray counts a metric from where it is made."""
    return metrics.Counter(
        "rayllama_engine_restarts",
        description="Engines started in place of others, by why: died, wedged, fell_to_cpu.",
        tag_keys=("pool", "cause"),
    )


def count_restart(pool: str, cause: Cause) -> None:
    """One more."""
    _restarts().inc(1, tags={"pool": pool or "default", "cause": cause})
