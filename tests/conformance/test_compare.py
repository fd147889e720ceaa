"""The comparer finds what is planted, and forgives what the list says."""

from dataclasses import replace

import pytest

from serve.conformance.compare import differences
from serve.conformance.permitted import EMBEDDED, OLLAMA, RAYLLAMA, RULES, skipped, writes
from serve.conformance.replay import Answer, Case, cases

_ALL = {
    case.id: case
    for case in cases(
        "misc", "models", "generate", "chat", "embed", "openai", "anthropic", "faults"
    )
}


@pytest.mark.parametrize("case", _ALL.values(), ids=lambda case: case.id)
def test_a_recording_equals_itself(case: Case) -> None:
    assert differences(case, case.recorded) == []


def _planted(name: str, old: str, new: str) -> list[str]:
    case = _ALL[name]
    frames = [frame.replace(old, new) for frame in case.recorded.frames]
    assert frames != case.recorded.frames
    return differences(case, replace(case.recorded, frames=frames))


@pytest.mark.parametrize(
    ("name", "old", "new", "found"),
    [
        ("misc/root", "Ollama", "ollama", "body: value"),
        ("misc/version", "0.33.0", "0.33.1", "body.version: value"),
        ("generate/unknown_model", "'nope'", '\\"nope\\"', "body.error: value"),
        ("generate/no_stream", '"done":true', '"done":"true"', "body.done: type"),
        ("generate/no_stream", '"done_reason"', '"reason"', "body.done_reason: missing"),
        ("generate/no_stream", '"model"', '"x":1,"model"', "body.x: extra"),
        ("generate/no_stream", '"prompt_eval_count":12', '"prompt_eval_count":13', "count: value"),
        ("generate/stream", '"eval_count":12,', "", "line: length"),
        ("generate/stream", '"done":false}', '"done":false,"context":[1]}', "line: length"),
        ("chat/stream", '"role":"assistant"', '"role":"user"', "line.message.role: value"),
        ("embed/embed_dimensions", "-0.33864105", "0.33864105", "embeddings[]: vector"),
        ("embed/embed_dimensions", "[[-0.33864105,", "[[", "embeddings[]: "),
        ("models/tags", '"family":"bert"', '"family":"llama"', "models[].details.family: value"),
        ("openai/chat_stream", '"role":"assistant",', "", "event"),
        ("openai/chat_stream", "data: [DONE]\n\n", "", "event: length"),
    ],
)
def test_a_planted_fault_is_found(name: str, old: str, new: str, found: str) -> None:
    assert any(found in difference for difference in _planted(name, old, new))


def test_other_text_times_and_ids_are_forgiven() -> None:
    assert _planted("generate/no_stream", "beautiful", "terrible") == []
    assert _planted("generate/no_stream", "2026-11-23T", "2027-01-01T") == []
    assert _planted("openai/chat", "chatcmpl-", "chatcmpl-1") == []


def test_status_framing_and_headers_count() -> None:
    case = _ALL["generate/stream"]
    wrong = Answer(201, [("Content-Type", "text/plain")], "cut", case.recorded.frames)
    found = [difference.split(":")[0] for difference in differences(case, wrong)]
    assert found == ["status", "framing", "header.content-type"]


def test_order_of_keys_counts() -> None:
    case = _ALL["misc/status"]
    swapped = ['{"cloud":{"source":"env","disabled":true}}']
    assert any("keys" in d for d in differences(case, replace(case.recorded, frames=swapped)))


def test_a_proxy_may_frame_otherwise_but_not_say_otherwise() -> None:
    case = _ALL["generate/stream"]
    merged = replace(case.recorded, framing="chunked", frames=["".join(case.recorded.frames)])
    assert differences(case, merged) == []
    closed = replace(case.recorded, framing="content-length")
    assert differences(case, closed, RAYLLAMA) == []
    assert differences(case, closed, OLLAMA) != []


def test_our_own_differences_are_not_forgiven_to_ollama() -> None:
    case = _ALL["models/tags"]
    frames = [case.recorded.body.replace('["completion"]', '["embedding"]', 1)]
    assert differences(case, replace(case.recorded, frames=frames), EMBEDDED) == []
    assert differences(case, replace(case.recorded, frames=frames), OLLAMA) != []


def test_every_rule_gives_a_reason() -> None:
    assert all(rule.why for rule in RULES)
    assert skipped("openai/chat", "/v1/chat/completions", EMBEDDED)
    assert not skipped("openai/chat", "/v1/chat/completions", RAYLLAMA)


def test_what_changes_models_is_known_by_its_path() -> None:
    assert writes("/api/copy")
    assert writes("/api/blobs/sha256:00")
    assert not writes("/api/tags")
