"""Which replicas this process can call, by deployment: filled by the router that delivers to them.

A registry of the process, since Serve makes the router itself, out of a copy of its class, and
gives nobody a way to it.
"""

from collections.abc import Callable, Mapping

Listing = Mapping[str, str]
"""The names of the replicas that run, and the node of each."""

_listings: dict[str, Listing] = {}
_listeners: dict[str, list[Callable[[Listing], None]]] = {}


def publish(deployment: str, listing: Listing) -> None:
    """These replicas run now."""
    _listings[deployment] = dict(listing)
    for listener in _listeners.get(deployment, ()):
        listener(_listings[deployment])


def is_known(deployment: str) -> bool:
    """Has anything been said of it?"""
    return deployment in _listings


def listing(deployment: str) -> Listing:
    """Those that run, as far as is known."""
    return _listings.get(deployment, {})


def listen(deployment: str, listener: Callable[[Listing], None]) -> Callable[[], None]:
    """Hear of changes, and of what is known at once. Call what is returned to hear no more."""
    _listeners.setdefault(deployment, []).append(listener)
    if deployment in _listings:
        listener(_listings[deployment])
    return lambda: _listeners[deployment].remove(listener)
