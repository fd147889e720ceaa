"""Serve's own configuration, rendered by the Serve that is installed, with the rules in it."""

import re
from collections.abc import Iterator

import pytest

from serve.edge.amend import MARK, NotAsExpected, amend
from serve.edge.rules import ROUTES, Files, rules
from serve.web.routes import INFERENCE
from tests.edge.proxy import Proxy

FILES = Files("/e/answers.map", "/e/lease.map", "/e/answer.lua")


@pytest.fixture(scope="module")
def text() -> Iterator[str]:
    with Proxy() as proxy:
        yield proxy.config.read_text()


def test_the_rules_come_before_all_of_serves_own(text: str) -> None:
    amended = amend(text, FILES)
    start, rest = amended.text.split(MARK + "\n")
    assert re.search(r"\nfrontend http_frontend\n    bind \S+\n$", start)
    assert rest.startswith(rules(FILES, 16384))
    assert amended.bufsize == 16384
    assert amended.socket.endswith("/admin.sock")


def test_nothing_else_changes_but_who_may_reach_it(text: str) -> None:
    before = text.splitlines()
    after = amend(text, FILES).text.splitlines()
    gone = [line for line in before if line not in after]
    assert [re.sub(r"\d{2,}|/\S+", "N", line) for line in gone] == [
        "    stats socket N mode N level admin expose-fd listeners",
        "    bind :N",
        "  bind *:N",
    ]
    assert any("mode 600 level admin expose-fd listeners" in line for line in after)
    assert sum("bind 127.0.0.1:" in line for line in after) == 3


def test_a_public_frontend_keeps_its_other_ports_public(text: str) -> None:
    public = re.sub(r"bind 127\.0\.0\.1:", "bind *:", text)
    assert "127.0.0.1" not in "".join(
        line for line in amend(public, FILES).text.splitlines() if "bind" in line
    )


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("frontend http_frontend\n", "frontend http_front\n", "0 times"),
        ("\n    log global\n    # Per-request", " ssl crt x\n    log global\n    #", "0 times"),
        ("mode 666 level admin", "mode 660 level admin", "0 times"),
        ("    tune.bufsize 16384\n", "", "0 times"),
        ("    tune.bufsize 16384\n", "    tune.bufsize 16384\n    tune.bufsize 9\n", "2 times"),
        ("defaults\n    mode http\n", "defaults\n    mode tcp\n", "mode http"),
        ("defaults\n", "defaults x\n", "no section"),
        ("    # Routes endpoint\n", "    stick-table type ip size 1\n", "rules of its own"),
        ("    # Routes endpoint\n", f"{MARK}\n", "before"),
    ],
)
def test_another_template_is_refused(text: str, old: str, new: str, why: str) -> None:
    assert old in text
    with pytest.raises(NotAsExpected, match=why):
        amend(text.replace(old, new), FILES)


def test_the_routes_are_some_of_the_ingress() -> None:
    assert set(ROUTES) <= INFERENCE
