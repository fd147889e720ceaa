"""What a replica is told of itself and its siblings by the shell that knows Ray."""

from collections.abc import Callable
from dataclasses import dataclass

from deployments.standing import Names, Resolve
from serve.ollama.peers import Peers
from serve.ollama.restarts import Cause


@dataclass(frozen=True)
class Seat:
    """A replica's place: its pool, its own name and rank there, and how it finds its schedulers.

    `peers`: the other replicas, whose models it may copy; None: it asks nobody.
    `tell`: what lists their names, and what finds one of them; None if nobody is to be told.
    `restarted`: counts the restarts of a pool's engines.
    """

    pool: str = ""
    who: Callable[[], tuple[str, int]] = lambda: ("", 0)
    tell: tuple[Names, Resolve] | None = None
    peers: Peers | None = None
    restarted: Callable[[str, Cause], None] = lambda pool, cause: None  # noqa: ARG005


ALONE = Seat()
"""Outside of a cluster."""
