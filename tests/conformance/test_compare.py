"""The comparer finds what is planted, and forgives what the list says."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from serve.conformance.compare import differences
from serve.conformance.permitted import (
    EMBEDDED,
    OLLAMA,
    PROFILES,
    RAYLLAMA,
    RAYLLAMA_ON_OLLAMA,
    RULES,
    Profile,
    skipped,
    writes,
)
from serve.conformance.replay import FILES, Answer, Case, cases

_ALL = {case.id: case for case in cases(*FILES, "pull", "faults")}


@pytest.mark.parametrize("case", _ALL.values(), ids=lambda case: case.id)
def test_a_recording_equals_itself(case: Case) -> None:
    assert differences(case, case.recorded) == []


def _planted(name: str, old: str, new: str, profile: Profile = OLLAMA) -> list[str]:
    case = _ALL[name]
    frames = [frame.replace(old, new) for frame in case.recorded.frames]
    assert frames != case.recorded.frames
    return differences(case, replace(case.recorded, frames=frames), profile)


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


_FREED = [
    ("generate/load", '"load"', '"stop"', "done_reason"),
    ("generate/unload", '"unload"', '"load"', "done_reason"),
    ("chat/load", '"load"', '"length"', "done_reason"),
    ("generate/no_stream", '"length"', '"load"', "done_reason"),
    ("openai/chat", '"length"', '"banana"', "finish_reason"),
    ("openai/chat", '"length"', '"tool_calls"', "finish_reason"),
    ("openai/chat_stream", '"length"', '"banana"', "finish_reason"),
    ("openai/completions", '"length"', '"banana"', "finish_reason"),
    ("anthropic/messages", "max_tokens", "banana", "stop_reason"),
    ("anthropic/messages", "max_tokens", "tool_use", "stop_reason"),
    ("anthropic/messages_stop_sequence", "end_turn", "stop", "stop_reason"),
    ("anthropic/messages_stream", "max_tokens", "banana", "stop_reason"),
    ("openai/chat", '"prompt_tokens":12', '"prompt_tokens":0', "prompt_tokens"),
    ("openai/chat_stream_usage", '"prompt_tokens":12', '"prompt_tokens":13', "prompt_tokens"),
    ("openai/responses", '"input_tokens":12', '"input_tokens":0', "input_tokens"),
    ("openai/responses_stream", '"input_tokens":12', '"input_tokens":0', "input_tokens"),
    ("embed/v1_embeddings", '"prompt_tokens":3', '"prompt_tokens":0', "prompt_tokens"),
    ("embed/v1_embeddings", '"total_tokens":3', '"total_tokens":4', "body.usage: sum"),
    ("anthropic/messages", '"input_tokens":12', '"input_tokens":0', "input_tokens"),
    ("capabilities/tools_anthropic", '"input_tokens":57', '"input_tokens":0', "input_tokens"),
    ("openai/completions_stream_usage", '"prompt_tokens":0', '"prompt_tokens":5', "prompt_tokens"),
    (
        "openai/completions_stream_usage",
        '"completion_tokens":0',
        '"completion_tokens":7',
        "completion_tokens",
    ),
    ("openai/completions_stream_usage", '"total_tokens":20', '"total_tokens":0', "total_tokens"),
    ("openai/chat", '"completion_tokens":8', '"completion_tokens":9', "body.usage: sum"),
    ("openai/chat", '"completion_tokens":8', '"completion_tokens":0', "completion_tokens"),
    ("anthropic/messages", '"output_tokens":8', '"output_tokens":0', "output_tokens"),
    ("generate/no_stream", '"eval_count":12,', '"eval_count":0,', "eval_count"),
    ("models/v1_models", '"id":"smollm2:135m"', '"id":"bogus-smollm2:135m"', "body.data: missing"),
    ("models/v1_model", '"id":"smollm2:135m"', '"id":"bogus-1"', "body.id"),
    ("models/v1_model", '"id":"smollm2:135m"', '"id":"all-minilm:latest"', "body.id"),
    ("openai/chat", "chatcmpl-", "cmpl-", "body.id"),
    ("openai/chat", '"chatcmpl-787"', '"chatcmpl-"', "body.id"),
    ("openai/chat_stream", "chatcmpl-", "bogus-", "event.id"),
    ("openai/responses", "resp_", "msg_", "body.id"),
    ("openai/responses_stream", '"sequence_number":7', '"sequence_number":8', "sequence_number"),
    ("anthropic/messages_unknown", "req_", "msg_", "body.request_id"),
    ("generate/no_stream", "2026-11-23T", "23.11.2026 ", "created_at"),
    ("openai/chat", '"created":1795444030', '"created":0', "created"),
    ("generate/no_stream", '"load_duration":1203626', '"load_duration":0', "load_duration"),
    (
        "generate/no_stream",
        "The sky is a beautiful place, filled with the colors of",
        "",
        "response",
    ),
    ("chat/no_stream", "I'm so glad you're here. I'm so glad", "", "content"),
    ("openai/chat", "I'm so glad you're here.", "", "content"),
    ("anthropic/messages", "I'm so glad you're here.", "", "text"),
    ("generate/logprobs", '"logprob":-', '"logprob":', "logprob"),
    ("models/tags", '"digest":"', '"digest":"none-', "digest"),
    ("models/tags", '"size":98362745', '"size":0', "size"),
    ("models/show", "# Modelfile generated by", "#", "modelfile"),
    ("models/create_from", "using existing layer", "no layer", "status"),
    ("models/create_from_unknown", "pull model manifest", "banana", "error"),
    ("models/push_unknown", "no such file or directory", "banana", "error"),
    ("models/create_from_missing_blob", "open ", "shut ", "error"),
    ("pull/pull", '"total":', '"total":-', "total"),
]
"""Each is at a place where something may differ, but not so."""


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
@pytest.mark.parametrize(("name", "old", "new", "found"), _FREED)
def test_what_may_differ_may_not_become_anything(
    name: str, old: str, new: str, found: str, profile: Profile
) -> None:
    assert any(found in difference for difference in _planted(name, old, new, profile))


def _edited(name: str, edit: Callable[[Any], Any], profile: Profile) -> list[str]:
    case = _ALL[name]
    frames = [json.dumps(edit(json.loads(case.recorded.body)))]
    return differences(case, replace(case.recorded, frames=frames), profile)


def _scaled(body: Any, factor: float) -> Any:
    if isinstance(body, list):
        return [_scaled(item, factor) for item in body]
    if isinstance(body, dict):
        return {key: _scaled(value, factor) for key, value in body.items()}
    return body * factor if isinstance(body, float) else body


@pytest.mark.parametrize("factor", [7.0, 0.0, -1.0, float("nan")])
@pytest.mark.parametrize("name", ["embed_string", "embed_dimensions", "v1_embeddings"])
def test_vectors_of_another_length_or_direction_are_found(name: str, factor: float) -> None:
    for profile in PROFILES.values():
        assert _edited(f"embed/{name}", lambda body: _scaled(body, 1.0), profile) == []
        found = _edited(f"embed/{name}", lambda body: _scaled(body, factor), profile)
        assert any("vector" in difference or "norm" in difference for difference in found)


def test_a_refusal_of_go_templates_is_no_other_answer() -> None:
    case = _ALL["generate/template"]
    refusal = {"error": "Go templates are not interpreted here"}
    answer = replace(case.recorded, status=400, frames=[json.dumps(refusal)])
    assert differences(case, answer, RAYLLAMA) == []
    broken = replace(answer, status=500)
    assert any("status" in difference for difference in differences(case, broken, RAYLLAMA))
    banana = replace(answer, frames=['{"error":"banana"}'])
    assert any("body.error" in difference for difference in differences(case, banana, RAYLLAMA))


def test_a_full_queue_is_529_for_anthropics_clients_and_nobody_else() -> None:
    case = _ALL["faults/queue_full_v1_messages"]
    for profile in (RAYLLAMA, RAYLLAMA_ON_OLLAMA):
        assert differences(case, replace(case.recorded, status=529), profile) == []
        assert differences(case, replace(case.recorded, status=500), profile) != []
    assert differences(case, replace(case.recorded, status=529), OLLAMA) != []
    other = _ALL["faults/queue_full_v1_chat_completions"]
    assert differences(other, replace(other.recorded, status=529), RAYLLAMA) != []


_ERROR = 'event: error\ndata: {"type":"error","error":{"type":"api_error","message":"x"}}\n\n'


@pytest.mark.parametrize(
    ("more", "found"),
    [
        (_ERROR, ""),
        (_ERROR * 2, ""),
        (_ERROR.replace("error", "stop"), "event: length"),
        (_ERROR + "event: message_stop\ndata: {}\n\n", "event: length"),
        ("data: [DONE]\n\n", "event: length"),
    ],
)
def test_a_broken_stream_may_end_with_an_error_and_nothing_else(more: str, found: str) -> None:
    for name in ("runner_killed", "server_sigterm"):
        case = _ALL[f"faults/{name}_anthropic_stream"]
        answer = replace(case.recorded, framing="chunked", frames=[*case.recorded.frames, more])
        faults = differences(case, answer, RAYLLAMA)
        assert [fault.startswith(found) for fault in faults] == ([True] if found else [])
        assert differences(case, answer, OLLAMA) != []


def test_what_a_broken_stream_said_before_its_error_still_counts() -> None:
    case = _ALL["faults/runner_killed_anthropic_stream"]
    frames = [frame.replace("text_delta", "banana") for frame in case.recorded.frames]
    faults = differences(case, replace(case.recorded, frames=[*frames, _ERROR]), RAYLLAMA)
    assert any("delta.type" in fault for fault in faults)


def test_other_text_times_and_ids_are_forgiven() -> None:
    assert _planted("generate/no_stream", "beautiful", "terrible") == []
    assert _planted("generate/no_stream", "2026-11-23T", "2027-01-01T") == []
    assert _planted("openai/chat", "chatcmpl-", "chatcmpl-1") == []
    assert _planted("generate/no_stream", '"done_reason":"length"', '"done_reason":"stop"') == []
    assert _planted("anthropic/messages", "max_tokens", "end_turn") == []
    usage = '"completion_tokens":8,"total_tokens":20'
    assert _planted("openai/chat", usage, '"completion_tokens":5,"total_tokens":17') == []


def test_a_stream_may_come_in_more_parts_that_are_numbered_on() -> None:
    case = _ALL["faults/runner_killed_responses_stream"]
    last = case.recorded.frames[-1]
    more = [last.replace('"sequence_number":5', f'"sequence_number":{number}') for number in (6, 7)]
    longer = replace(case.recorded, frames=[*case.recorded.frames, *more])
    assert differences(case, longer) == []
    gap = replace(case.recorded, frames=[*case.recorded.frames, more[1]])
    assert any("sequence_number" in found for found in differences(case, gap))


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
    for framing in ("cut", "no body", "until close"):
        assert differences(case, replace(case.recorded, framing=framing), RAYLLAMA) != []
    whole = _ALL["generate/no_stream"]
    assert differences(whole, replace(whole.recorded, framing="chunked"), RAYLLAMA) == []
    assert differences(whole, replace(whole.recorded, framing="cut"), RAYLLAMA) != []
    long = _ALL["openai/chat_stop_bad"]
    assert differences(long, replace(long.recorded, framing="chunked"), OLLAMA) == []
    assert differences(long, replace(long.recorded, framing="cut"), OLLAMA) != []


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
