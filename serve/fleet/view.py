"""A pool as an operator sees it."""

from typing import Any

from serve.fleet.replica import Replica
from serve.fleet.schedule import Schedule
from serve.wire.names import short


def view(schedule: Schedule) -> dict[str, Any]:
    """Its figures and its replicas, as JSON."""
    figures = schedule.figures
    return {
        "slots": figures.slots,
        "in_flight": figures.in_flight,
        "waiting": figures.waiting,
        "replicas": [_replica(each) for each in schedule.replicas],
    }


def _replica(replica: Replica) -> dict[str, Any]:
    standing = replica.standing
    named = dict[str, str]()
    for name, weights in sorted(standing.ids.items(), reverse=True):
        named[weights] = short(name)  # of those that share a runner the first
    return {
        "replica": replica.name,
        "state": _state(replica),
        "slots": standing.slots,
        "free": replica.free,
        "loaded": [
            {
                "model": named.get(key[0], key[0]),
                "num_ctx": key[1],
                "state": "loaded" if runner.is_loaded else "loading",
                "in_flight": runner.leases,
            }
            for key, runner in sorted(replica.runners.items())
        ],
        "models": {short(name): digest for name, digest in sorted(standing.digests.items())},
        "engine_version": standing.engine_version,
        "last_error": standing.last_error,
    }


def _state(replica: Replica) -> str:
    if replica.is_suspect:
        return "unreachable"
    return "running" if replica.is_usable else "starting or leaving"
