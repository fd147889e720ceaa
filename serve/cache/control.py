"""What a request's `Cache-Control` asks of the cache (RFC 9111 §5.2.1).

Heeded: `max-age`, `no-cache`, `no-store`, `only-if-cached`, `stale-if-error` (RFC 5861 §4), and
`Pragma: no-cache` where there is no `Cache-Control` (§5.4). Not heeded: `max-stale` and `min-fresh`
(how fresh an answer is doesn't change what the same model would say; whether stale ones are given
is the operator's to say), `no-transform` (nothing is transformed).
"""

import re

from msgspec import Struct

LONGEST_S = 1 << 31
"""What a number of seconds that is too large to hold counts as (RFC 9111 §1.2.2)."""

_DIRECTIVE = re.compile(
    r"""[\s,]*
        (?P<name> [^\s,=";]+ )
        (?: = (?: "(?P<quoted> (?:[^"\\]|\\.)* )" | (?P<token> [^\s,"]* ) ) )?
        [^,]*""",
    re.VERBOSE,
)


class Controls(Struct, frozen=True):
    """What a request asks for. `max_age_s`: no older answer will do, in whole seconds.

    `stale_if_error_s`: for so long after its time an answer will do where the other way is an
    error (RFC 5861 §4); None: as the operator says.
    """

    no_store: bool = False
    no_cache: bool = False
    only_if_cached: bool = False
    max_age_s: int | None = None
    stale_if_error_s: int | None = None

    def refuses(self, age_s: float) -> bool:
        """Is an answer of this age too old for this client (RFC 9111 §5.2.1.1)?"""
        return self.max_age_s is not None and age_s > self.max_age_s


NO_CONTROLS = Controls()


def controls(cache_control: str, pragma: str = "") -> Controls:
    """The request's wishes, of these two headers' values.

    Names match whatever their case, and an argument may be quoted or not (§5.2). `max-age=0` is a
    `no-cache`: nothing stored is that young. An age that can't be read counts as 0, and of several
    the smallest counts, as for a response (§4.2.1): in doubt an answer is too old.
    """
    if not cache_control and not pragma:
        return NO_CONTROLS
    names: set[str] = set()
    ages: list[int] = []
    stale: list[int] = []
    for found in _DIRECTIVE.finditer(cache_control or pragma):
        name = found["name"].lower()
        names.add(name)
        if name in ("max-age", "stale-if-error"):
            seconds = _seconds(found["quoted"] or found["token"] or "")
            (ages if name == "max-age" else stale).append(seconds)
    if not cache_control:
        return Controls(no_cache="no-cache" in names)
    return Controls(
        no_store="no-store" in names,
        no_cache="no-cache" in names or 0 in ages,
        only_if_cached="only-if-cached" in names,
        max_age_s=min(ages, default=None),
        stale_if_error_s=min(stale, default=None),
    )


def _seconds(text: str) -> int:
    """Delta-seconds (§1.2.2): digits alone."""
    if not (text.isascii() and text.isdigit()):
        return 0
    return LONGEST_S if len(text) > 10 else min(int(text), LONGEST_S)
