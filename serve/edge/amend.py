"""Serve's HAProxy configuration, with the rules of the edge in it.

What is relied on of Serve's template (ray/serve/_private/haproxy_templates.py of Ray 2.60), each
checked; where it isn't so, nothing is amended:

- one line `frontend http_frontend`, and right after it one `bind HOST:PORT` with no more words: the
  rules go after it, before all of Serve's own;
- no ingress request router, stick table or tracking in that frontend: they would meet ours;
- one `stats socket PATH mode 666 level admin expose-fd listeners`: it becomes mode 600, since who
  may write to it may plant answers. Serve's own manager runs as the same user;
- one `tune.bufsize`: what a request and an answer must fit;
- `mode http` in `defaults`.

Where the frontend listens on loopback, Serve's ports for statistics and metrics do too.
"""

import re
from typing import NamedTuple

from serve.edge.rules import Files, rules

MARK = "    # Rayllama's edge: see serve/edge/rules.py"

_FRONTEND = re.compile(r"^frontend http_frontend\n    bind (\S+):(\d+)\n", re.MULTILINE)
_SECTION = re.compile(r"^\S.*$", re.MULTILINE)
_SOCKET = re.compile(
    r"^(    stats socket (\S+)) mode 666 (level admin expose-fd listeners)$", re.MULTILINE
)
_BUFSIZE = re.compile(r"^    tune\.bufsize (\d+)$", re.MULTILINE)
_OURS_TOO = ("stick-table", "track-sc", "lua.", "unique-id-format")
_OPEN_BINDS = (
    (re.compile(r"^    bind :(\d+)$", re.MULTILINE), r"    bind 127.0.0.1:\1"),
    (re.compile(r"^  bind \*:(\d+)$", re.MULTILINE), r"  bind 127.0.0.1:\1"),
)


class NotAsExpected(Exception):  # noqa: N818  (it says what is the matter)
    """The configuration is not one that this version of Serve writes."""


class Amended(NamedTuple):
    """The configuration, and what was learned from it: the buffer's size in bytes."""

    text: str
    socket: str
    bufsize: int


def amend(text: str, files: Files) -> Amended:
    """The configuration with the rules in it. Raises `NotAsExpected`."""
    if MARK in text:
        raise NotAsExpected("it has been amended before")
    frontend = _one(_FRONTEND, text, "`frontend http_frontend` with `bind HOST:PORT` after it")
    socket = _one(_SOCKET, text, "admin socket of mode 666")
    bufsize = int(_one(_BUFSIZE, text, "`tune.bufsize`")[1])
    if "    mode http" not in _section(text, "defaults"):
        raise NotAsExpected("the defaults are not in `mode http`")
    found = [word for word in _OURS_TOO if word in _section(text, "frontend http_frontend")]
    if found:
        raise NotAsExpected(f"the frontend has rules of its own with {', '.join(found)}")
    ours = f"{MARK}\n{rules(files, bufsize)}"
    amended = text[: frontend.end()] + ours + text[frontend.end() :]
    amended = _SOCKET.sub(rf"\1 mode 600 \3\n    lua-load-per-thread {files.script}", amended)
    if frontend[1] in ("127.0.0.1", "localhost"):
        for open_bind, loopback in _OPEN_BINDS:
            amended = open_bind.sub(loopback, amended)
    return Amended(amended, socket[2], bufsize)


def _one(pattern: re.Pattern[str], text: str, what: str) -> re.Match[str]:
    found = list(pattern.finditer(text))
    if len(found) != 1:
        raise NotAsExpected(f"{len(found)} times {what} instead of once")
    return found[0]


def _section(text: str, head: str) -> str:
    """From a section's first line up to the next section."""
    start = text.find(f"\n{head}\n")
    if start < 0:
        raise NotAsExpected(f"there is no section `{head}`")
    following = _SECTION.search(text, start + len(head) + 2)
    return text[start : following.start() if following else len(text)]
