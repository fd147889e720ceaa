"""Which browsers' pages may call, and under which host names: Ollama's rules, ended here.

Allowed origins by default are those of Ollama (envconfig.AllowedOrigins): localhost, 127.0.0.1 and
0.0.0.0 on any port, and the schemes of desktop apps and editors; `ingress.origins` adds to them, as
`OLLAMA_ORIGINS` does there: a `*` within one stands for anything.
While listening on loopback only, the Host header must name this machine (server/routes.go,
allowedHostsMiddleware), so that a page can't reach it by rebinding a name of its own.
"""

import ipaddress
import re
import socket
from collections.abc import Callable, Sequence
from itertools import chain
from math import inf
from time import monotonic
from urllib.parse import urlsplit

import psutil

from serve.ports import Clock

Header = tuple[bytes, bytes]
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_LOCAL = re.compile(r"https?://(localhost|127\.0\.0\.1|0\.0\.0\.0)(:\d+)?")
_SCHEMES = (
    "app://",
    "file://",
    "tauri://",
    "vscode-webview://",
    "vscode-file://",
)
"""Extensions of browsers are none of them: Ollama wants these configured."""
_PRIVATE = [
    ipaddress.ip_network(network)
    for network in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")
]
"""What Go calls private; Python's `is_private` says it of more."""
_OWN_S = 1.0
_HOST_SUFFIXES = (".localhost", ".local", ".internal")
_ALLOW_HEADERS = (
    b"Authorization,Content-Type,User-Agent,Accept,X-Requested-With,Openai-Beta,X-Stainless-Arch,"
    b"X-Stainless-Async,X-Stainless-Custom-Poll-Interval,X-Stainless-Helper-Method,"
    b"X-Stainless-Lang,X-Stainless-Os,X-Stainless-Package-Version,X-Stainless-Poll-Helper,"
    b"X-Stainless-Retry-Count,X-Stainless-Runtime,X-Stainless-Runtime-Version,X-Stainless-Timeout"
)
_ALLOW_METHODS = b"GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS"


class Origins:
    """The origins that may call."""

    def __init__(self, more: Sequence[str] = ()) -> None:
        self._more = frozenset(origin.rstrip("/") for origin in more)
        self._patterns = [origin.split("*", 1) for origin in more if "*" in origin]

    def allows(self, origin: bytes) -> bool:
        """Whether a page of this origin may call."""
        text = origin.decode("latin-1")
        if "*" in self._more or text in self._more:
            return True
        if any(text.startswith(start) and text.endswith(end) for start, end in self._patterns):
            return True
        return text.startswith(_SCHEMES) or _LOCAL.fullmatch(text) is not None

    def headers(self, origin: bytes) -> list[Header]:
        """What an answer to an allowed origin carries."""
        allowed = b"*" if "*" in self._more else origin
        return [(b"access-control-allow-origin", allowed), (b"vary", b"Origin")]

    def preflight(self, origin: bytes) -> list[Header]:
        """What an answer to an allowed preflight request carries."""
        return [
            (b"access-control-allow-headers", _ALLOW_HEADERS),
            (b"access-control-allow-methods", _ALLOW_METHODS),
            (b"access-control-max-age", b"43200"),
            *self.headers(origin),
            (b"vary", b"Access-Control-Request-Method"),
            (b"vary", b"Access-Control-Request-Headers"),
        ]


def _interfaces() -> list[str]:
    """The addresses of this machine's network interfaces; as in Ollama none, if nobody says."""
    try:
        found = chain.from_iterable(psutil.net_if_addrs().values())
    except OSError:
        return []
    return [each.address for each in found if each.family in (socket.AF_INET, socket.AF_INET6)]


class Hosts:
    """The Host headers that a loopback listener answers to; any, when it listens wider.

    `own` tells this machine's addresses. It is asked again after `_OWN_S` seconds, and not sooner,
    whatever is asked for.
    """

    def __init__(
        self,
        *,
        loopback: bool,
        own: Callable[[], list[str]] = _interfaces,
        clock: Clock = monotonic,
    ) -> None:
        self._any = not loopback
        self._tell_own = own
        self._clock = clock
        self._own: frozenset[Address] = frozenset()
        self._own_at = -inf
        self._machine = socket.gethostname().lower()
        self._known: set[bytes] = set()

    def allows(self, host: bytes) -> bool:
        """Whether this Host may be answered."""
        if self._any or host in self._known:
            return True
        address = _address(_plain(host))
        allowed = self.names(host) or (address is not None and _is_near(address))
        if allowed and len(self._known) < 64:
            self._known.add(host)
        return allowed or (address is not None and self._is_own(address))

    def names(self, host: bytes) -> bool:
        """Does it say this machine's name, rather than an address? False, when any is answered."""
        name = _plain(host)
        is_name = name in ("", "localhost", self._machine) or name.endswith(_HOST_SUFFIXES)
        return is_name and not self._any

    def _is_own(self, address: Address) -> bool:
        now = self._clock()
        if now - self._own_at >= _OWN_S:
            found = (_address(text.partition("%")[0]) for text in self._tell_own())
            self._own = frozenset(each for each in found if each is not None)
            self._own_at = now
        return address in self._own


def _address(text: str) -> Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _is_near(address: Address) -> bool:
    """Of every machine, or of a private network."""
    is_private = any(address in network for network in _PRIVATE)
    return address.is_loopback or is_private or address.is_unspecified


def _plain(host: bytes) -> str:
    return _without_port(host.decode("latin-1")).lower().rstrip(".")


def _without_port(host: str) -> str:
    if re.search(r"[^\w.:\[\]%-]", host):
        return host
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return host
