"""What an operator sees of a node's edge: in the admin API's stats, and when it explains."""

from typing import Any

from serve.edge.feeder import Feeder


def stats_of(feeder: Feeder) -> dict[str, Any]:
    """Counts since the feeder began; `reason`: why there is no edge, "" where there is."""
    return {
        "reason": feeder.proxy.reason,
        "entries": len(feeder.proxy.placed),
        "held_bytes": feeder.shelf.held_bytes,
        "lease_left_s": feeder.lease_left_s,
        "lease_s": feeder.lease_s,
        "hits": feeder.hits,
        "promoted": feeder.promoted,
        "removed": feeder.shelf.removed,
        "refused": feeder.refused,
        "reloads": max(0, feeder.proxy.restarts - 1),
    }


def place_of(feeder: Feeder, shared_key: bytes) -> dict[str, Any]:
    """Is an answer there, by its key in the shared store, and why or why not?"""
    there = sum(one.shared_key == shared_key for one in feeder.proxy.placed.values())
    if feeder.proxy.reason:
        why = f"no edge: {feeder.proxy.reason}"
    elif not feeder.lease_left_s:
        why = "silent: the catalogue vouches for nothing now"
    elif there:
        why = f"hot: given to requests of the very same bytes, {there} spellings of it"
    elif any(one.shared_key == shared_key for one in feeder.shelf.entries.values()):
        why = "hot, and on its way"
    else:
        why = feeder.refusals.get(shared_key) or (
            "not told of: given less than `edge.min_hits` times in ten seconds from one near cache,"
            " or in a form that never is"
        )
    return {"is_there": bool(there) and feeder.lease_left_s > 0, "why": why}
