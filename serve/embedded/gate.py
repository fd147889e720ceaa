"""Who may talk to an engine on loopback: Ollama's rules for Host and Origin."""

import ipaddress
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from serve.embedded.replies import Header, Whole

_LOCAL_NAMES = ("localhost", "127.0.0.1", "0.0.0.0")  # noqa: S104 - names, nothing is bound
_APPS = ("app://*", "file://*", "tauri://*", "vscode-webview://*", "vscode-file://*")
_LOCAL_SUFFIXES = (".localhost", ".local", ".internal")
_VARY = (b"vary", b"Origin")
_PREFLIGHT: tuple[Header, ...] = (
    (
        b"access-control-allow-headers",
        b"Authorization,Content-Type,User-Agent,Accept,X-Requested-With,Openai-Beta,"
        b"X-Stainless-Arch,X-Stainless-Async,X-Stainless-Custom-Poll-Interval,"
        b"X-Stainless-Helper-Method,X-Stainless-Lang,X-Stainless-Os,X-Stainless-Package-Version,"
        b"X-Stainless-Poll-Helper,X-Stainless-Retry-Count,X-Stainless-Runtime,"
        b"X-Stainless-Runtime-Version,X-Stainless-Timeout",
    ),
    (b"access-control-allow-methods", b"GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS"),
    (b"access-control-max-age", b"43200"),
    _VARY,
    (b"vary", b"Access-Control-Request-Method"),
    (b"vary", b"Access-Control-Request-Headers"),
)


@dataclass(frozen=True, slots=True)
class Passed:
    """The request may go on; its answer gets these headers too."""

    headers: tuple[Header, ...] = ()


class Gate:
    """The rules, with `origins` allowed beside Ollama's own (a `*` stands for anything)."""

    def __init__(self, origins: Sequence[str]) -> None:
        local = [
            f"{scheme}://{name}{port}"
            for name in _LOCAL_NAMES
            for scheme in ("http", "https")
            for port in ("", ":*")
        ]
        self._origins = [*origins, *local, *_APPS]

    def check(self, method: str, headers: Mapping[str, str]) -> Passed | Whole:
        """What to answer at once (403, or 204 to a preflight), or that the request may go on."""
        host, origin = headers.get("host", ""), headers.get("origin", "")
        added: tuple[Header, ...] = ()
        if origin and origin not in (f"http://{host}", f"https://{host}"):
            if not any(_matches(pattern, origin) for pattern in self._origins):
                return Whole(403)
            allowed = (b"access-control-allow-origin", origin.encode("latin-1"))
            if method == "OPTIONS":
                return Whole(204, headers=(allowed, *_PREFLIGHT))
            added = (allowed, _VARY)
        return self._by_host(method, host, added)

    def _by_host(self, method: str, host: str, added: tuple[Header, ...]) -> Passed | Whole:
        name = _without_port(host)
        if _is_private(name):
            return Passed(added)
        if name in ("", "localhost", socket.gethostname().lower()) or name.endswith(
            _LOCAL_SUFFIXES
        ):
            return Whole(204, headers=added) if method == "OPTIONS" else Passed(added)
        return Whole(403, headers=added)


def _matches(pattern: str, origin: str) -> bool:
    before, star, after = pattern.partition("*")
    if not star:
        return origin == pattern
    fits = len(origin) >= len(before) + len(after)
    return fits and origin.startswith(before) and origin.endswith(after)


def _without_port(host: str) -> str:
    host = host.lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0] if host.count(":") == 1 else host


def _is_private(name: str) -> bool:
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    return address.is_loopback or address.is_private or address.is_unspecified
