"""All recorded requests sent to one server, in the recorded order, and what came of them.

Cases build on each other, so the server should be a fresh one that nobody else uses. Left out are
the lists of a server that has or has loaded models of its own, and where models must not be
changed, what does so and what needs a model that isn't there.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from serve.conformance.compare import judge
from serve.conformance.permitted import (
    EMBEDDED,
    OLLAMA,
    RAYLLAMA,
    RAYLLAMA_ON_OLLAMA,
    Profile,
    skipped,
    writes,
)
from serve.conformance.replay import FILES, Answer, Case, cases, replay

MODEL = "smollm2:135m"
_RECORDED = {MODEL, "all-minilm:latest"}
_TEMPLATED = {f"{name}:latest" for name in ("smollm2-tools", "smollm2-think", "smollm2-insert")}
_OLLAMAS = (OLLAMA.name, RAYLLAMA_ON_OLLAMA.name)
_NOTHING = Answer(0, [], "", [])
_OK, _CREATED = 200, 201


@dataclass(frozen=True)
class _Before:
    """The server's models and those in memory at first, and whether they may be changed."""

    there: set[str]
    loaded: set[str]
    write: bool


@dataclass
class Report:
    """Names of cases, and why: what differed (`failed`), why it wasn't asked (`skipped`).

    `permitted` counts cases by the reason of the rule that allowed a difference in them.
    """

    cases: int = 0
    passed: int = 0
    failed: dict[str, list[str]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    permitted: Counter[str] = field(default_factory=Counter)


def run(
    url: str,
    profile: Profile,
    *,
    write: bool = False,
    key: str = "",
    say: Callable[[str], None] = lambda _: None,
) -> Report:
    """Hold the server at `url` against the recordings. Raises `OSError` if none answers at first.

    `write` also asks what changes the models that it has; some of these stay.
    """
    report = Report()
    before = _Before(_listed(url, "/api/tags", key), _listed(url, "/api/ps", key), write=write)
    for case in cases(*FILES):
        report.cases += 1
        reason = skipped(case.id, case.path, profile) or _left_out(case, before, profile)
        if not reason and case.recorded.status == _CREATED and _has(url, case.path, key):
            reason = "the blob is there already"
        if reason:
            report.skipped[case.id] = reason
            continue
        faults = _ask(url, case, profile, key, report)
        if faults:
            report.failed[case.id] = faults
            say("\n  ".join([case.id, *faults]))
        else:
            report.passed += 1
    return report


def profile_of(url: str, key: str = "") -> Profile:
    """Who answers there. Raises `OSError`.

    Only Rayllama has `/healthz`; only the embedded engine has templates in Jinja.
    """
    is_ingress = _get(url, "GET", "/healthz", "", key).status == _OK
    shown = _get(url, "POST", "/api/show", json.dumps({"model": MODEL}), key)
    if "{%" in str(_parsed(shown).get("template", "")):
        return RAYLLAMA if is_ingress else EMBEDDED
    return RAYLLAMA_ON_OLLAMA if is_ingress else OLLAMA


def _ask(url: str, case: Case, profile: Profile, key: str, report: Report) -> list[str]:
    try:
        verdict = judge(case, replay(url, case, key=key), profile)
    except (OSError, ValueError) as error:  # no answer, or none in HTTP
        return [f"no answer: {error!r}"]
    report.permitted.update({rule.why for _, rule in verdict.permitted})
    return verdict.faults


def _left_out(case: Case, before: _Before, profile: Profile) -> str:
    """Why `case` can't be asked of such a server; "" if it can."""
    is_ollama = profile.name in _OLLAMAS
    if case.path == "/api/ps" and before.loaded:
        return "models were loaded already"
    if case.path in ("/api/tags", "/v1/models") and is_ollama and not before.there <= _RECORDED:
        return "the server has models of its own"
    needed = _needed(case)
    if before.write:
        is_asked = is_ollama or needed not in _TEMPLATED
        is_there = needed in before.there and not writes(case.path)
        why = "the embedded engine makes no models with Go templates"
        return "" if is_asked or is_there else why
    if writes(case.path):
        return "it changes models: --write"
    if case.recorded.status == _OK and needed and needed not in before.there:
        return f"there is no model {needed}: --write makes those of the recordings"
    return ""


def _needed(case: Case) -> str:
    """The model that the request names; "" if none."""
    try:
        body: Any = json.loads(case.body or "null")
    except ValueError:
        return ""
    name = str(body.get("model") or body.get("name") or "") if isinstance(body, dict) else ""
    return name if ":" in name or not name else f"{name}:latest"


def _listed(url: str, path: str, key: str) -> set[str]:
    answer = _parsed(_get(url, "GET", path, "", key))
    return set(_names(answer.get("models")))


def _names(models: Any) -> Iterator[str]:
    for model in models if isinstance(models, list) else []:
        if isinstance(model, dict):
            yield str(model.get("name"))


def _has(url: str, path: str, key: str) -> bool:
    return _get(url, "HEAD", path, "", key).status == _OK


def _get(url: str, method: str, path: str, body: str, key: str) -> Answer:
    case = Case("", method, path, {}, body or None, _NOTHING)
    return replay(url, replace(case, headers={"Content-Type": "application/json"}), key=key)


def _parsed(answer: Answer) -> dict[str, Any]:
    try:
        body = json.loads(answer.body)
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}
