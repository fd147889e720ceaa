"""The one list of what may differ from a recording, each with its reason.

A difference that no rule here names fails a test. Rules name cases and places by patterns (`*`),
and kinds as `Difference` does, and say of the values what may
stand for what.
"""

from dataclasses import dataclass
from fnmatch import fnmatchcase

from serve.conformance.difference import (
    Difference,
    Free,
    among,
    anything,
    becomes,
    begins,
    counted,
    digests,
    ended_by_error,
    headed_alike,
    likely,
    moments,
    of_one_kind,
    said_of_another_file,
    spoken,
)


@dataclass(frozen=True)
class Profile:
    """Who answers. `reframes`: a proxy between us and the server may cut HTTP chunks otherwise."""

    name: str
    reframes: bool = False


OLLAMA = Profile("ollama")
EMBEDDED = Profile("embedded")
RAYLLAMA = Profile("rayllama", reframes=True)
"""Rayllama on the embedded engine."""
RAYLLAMA_ON_OLLAMA = Profile("rayllama-on-ollama", reframes=True)
FRAMINGS = among("content-length", "chunked")
"""What a proxy, or a longer text, may turn into one another."""

PROFILES = {p.name: p for p in (OLLAMA, EMBEDDED, RAYLLAMA, RAYLLAMA_ON_OLLAMA)}


@dataclass(frozen=True)
class Rule:
    """In these cases, at these places, these kinds of difference are right; `why`.

    `free` is asked about the two values: only such differences are meant.
    """

    why: str
    where: tuple[str, ...]
    cases: tuple[str, ...] = ("*",)
    kinds: tuple[str, ...] = ("value",)
    profiles: tuple[str, ...] = ("ollama", "embedded", "rayllama", "rayllama-on-ollama")
    free: Free = anything


_OURS = ("embedded", "rayllama")
_OLLAMAS = ("ollama", "rayllama-on-ollama")
_RAYLLAMAS = ("rayllama", "rayllama-on-ollama")
_REGISTRY = ("models/create_from_unknown", "models/pull_offline*")
_GO = ("generate/template", "models/create_template")
_STORE = ("models/create_from_missing_blob", "models/push_unknown")
_TEXT = "generated text depends on llama.cpp's build"
_ENDS = "generated text depends on llama.cpp's build, and so does whether it ends before its limit"
_LIKELY = "the tokens and log probabilities of generated text"
_JINJA = (
    "the embedded engine has Jinja templates where Ollama has Go ones; the texts differ, what they "
    "render is equal (generate/debug_render)"
)
_REFUSED = "a request with a Go template is refused, with what to do instead"

RULES = (
    # What differs between two answers of one server.
    Rule(
        _TEXT,
        ("*.response", "*.content", "*.choices[].text", "*.content[].text", "*.delta.text"),
        free=spoken,
    ),
    Rule(_TEXT, ("*.thinking", "*.reasoning"), free=spoken),
    Rule(_TEXT, ("*.delta",), cases=("*/*responses*",), free=spoken),
    Rule(
        "a text that ends its thoughts before its limit has an answer after them, another hasn't",
        ("*.response", "*.content", "*.content[].text", "*.thinking", "*.reasoning"),
        cases=("capabilities/thinking*",),
    ),
    Rule(
        _ENDS,
        ("*.done_reason", "*.choices[].finish_reason"),
        free=among("stop", "length"),
    ),
    Rule(_ENDS, ("*.stop_reason",), free=among("end_turn", "max_tokens")),
    Rule(
        "the tokens of generated text",
        ("*.context", "*.context[]"),
        kinds=("value", "length"),
        free=counted,
    ),
    Rule(_LIKELY, ("*.token",), free=spoken),
    Rule(_LIKELY, ("*.bytes", "*.bytes[]"), kinds=("value", "length")),
    Rule(_LIKELY, ("*.logprob",), free=likely),
    Rule(
        "times",
        ("*.created_at", "*.modified_at", "*.expires_at", "*.created", "*.completed_at"),
        free=moments,
    ),
    Rule("durations", ("*_duration",), free=counted),
    Rule(
        "counts of generated tokens, and their sums with the prompt's",
        ("*.eval_count", "*.completion_tokens", "*.output_tokens", "*.total_tokens"),
        free=counted,
    ),
    Rule("ids are random or counted", ("*.id", "*.request_id", "*.item_id"), free=of_one_kind),
    Rule(
        "the recording itself was cut there",
        ("body.context[]",),
        cases=("generate/long_prompt_truncated",),
        kinds=("type",),
    ),
    # What a short text changes.
    Rule(
        "a text that ends early has no probabilities for what it didn't say",
        ("*.logprobs",),
        kinds=("length",),
        free=counted,
    ),
    Rule(
        "a text without a limit may outgrow the buffer in which Go counts an answer's length",
        ("framing",),
        cases=("openai/chat_stop_bad",),
        free=FRAMINGS,
    ),
    # What is another file or another machine, but the same thing.
    Rule(
        "the newest model comes first, and which is newest is another matter elsewhere",
        ("body.models", "body.data"),
        cases=("models/tags", "models/v1_models"),
        kinds=("order",),
    ),
    Rule(
        "a digest stands for the weights, template and parameters that are here",
        ("*.digest",),
        free=digests,
    ),
    Rule("bytes of another file, and of memory", ("*.size",), free=counted),
    Rule(
        "the folder of this machine's models",
        ("body.modelfile",),
        cases=("*/show*",),
        profiles=_OLLAMAS,
        free=headed_alike,
    ),
    Rule(
        "an error names the folder of this machine's models, on two replicas that of each",
        ("line.error",),
        cases=_STORE,
        profiles=("ollama", *_RAYLLAMAS),
        free=said_of_another_file,
    ),
    Rule(
        "how this machine fails to resolve a name",
        ("line.error", "body.error"),
        cases=_REGISTRY,
        profiles=("ollama", *_RAYLLAMAS),
        free=begins("pull model manifest: "),
    ),
    Rule(
        "how this machine fails to resolve a name; the digest is another layer's",
        ("line.error",),
        cases=("models/push_offline",),
        profiles=("ollama", *_RAYLLAMAS),
        free=begins('Head "https://registry.ollama.ai/v2/library/mario/blobs/sha256:'),
    ),
    Rule(
        "the digests of layers that hold another file",
        ("line.status",),
        cases=("models/create_from", "pull/pull*"),
        profiles=_OURS,
        free=said_of_another_file,
    ),
    Rule(
        "a layer which this store didn't have before",
        ("line.status",),
        cases=("models/create_from",),
        profiles=_OURS,
        free=begins("creating new layer sha256:"),
    ),
    Rule(
        "how fast the bytes came, and layers of another length",
        ("line.completed", "line.total"),
        cases=("pull/pull", "pull/pull_again"),
        profiles=_OURS,
        free=counted,
    ),
    Rule(
        "a line before the first byte of a layer has come, in which Ollama, too, leaves out the "
        "nought; the recorded registry was quicker",
        ("line",),
        cases=("pull/pull",),
        kinds=("length",),
        profiles=_OURS,
    ),
    Rule(
        "the engine has models of its own, and lists them",
        ("body.models",),
        cases=("pull/tags*",),
        kinds=("extra", "length"),
        profiles=_OURS,
    ),
    Rule(
        "Ollama rewrites the GGUF that it is given, and sorts its tensors anew",
        ("body.tensors",),
        kinds=("order",),
        profiles=_OURS,
    ),
    # What the embedded engine does otherwise on purpose.
    Rule(
        _JINJA,
        ("body.template",),
        cases=("*/show*",),
        profiles=_OURS,
        free=spoken,
    ),
    Rule(
        _JINJA,
        ("body.modelfile",),
        cases=("*/show*",),
        profiles=_OURS,
        free=headed_alike,
    ),
    Rule(
        _REFUSED,
        ("status",),
        cases=_GO,
        profiles=_OURS,
        free=becomes(400),
    ),
    Rule(
        _REFUSED,
        ("header.content-type", "line"),
        cases=("models/create_template",),
        kinds=("value", "length"),
        profiles=_OURS,
        free=becomes(["application/json"], ["error;;None;[]"]),
    ),
    Rule(
        _REFUSED,
        ("body.*",),
        cases=_GO,
        kinds=("missing",),
        profiles=_OURS,
    ),
    Rule(
        _REFUSED,
        ("body.error",),
        cases=_GO,
        kinds=("extra",),
        profiles=_OURS,
        free=begins("Go templates are not interpreted"),
    ),
    Rule(
        "`smollm2` is served under that name as well, and listed, so that it is cached by digest; "
        "so is what the configuration names",
        ("body.models", "body.data"),
        cases=("models/tags", "models/v1_models"),
        kinds=("extra", "length"),
        profiles=_OURS,
    ),
    Rule(
        "a longer list doesn't fit into the buffer in which Go counts an answer's length",
        ("framing",),
        cases=("models/tags",),
        profiles=_OURS,
        free=FRAMINGS,
    ),
    Rule(
        "a model made from one that the embedded engine brings along is another file, with a "
        "runner of its own, where Ollama has one for both",
        ("body.models",),
        cases=("embed/ps_loaded",),
        kinds=("extra",),
        profiles=_OURS,
        free=becomes("mario:latest"),
    ),
    Rule(
        "a model of the embedded engine is a file, which was made from no other model",
        ("body.details.parent_model",),
        cases=("capabilities/show_*",),
        profiles=_OURS,
        free=becomes(""),
    ),
    Rule(
        "Jinja prints tools and their calls with other spaces than Go",
        ("body.prompt_eval_count", "body.usage.prompt_tokens", "body.usage.input_tokens"),
        cases=("capabilities/tool*",),
        profiles=_OURS,
        free=counted,
    ),
    Rule(
        "llama.cpp gives Jinja templates, which seldom know the role `developer`, `system` in its "
        "place; Ollama's Go templates print any role",
        ("body.usage.prompt_tokens",),
        cases=("openai/chat_developer_role",),
        profiles=_OURS,
        free=counted,
    ),
    Rule(
        "Ollama's list calls all-minilm a completion model without lengths, since its manifest "
        "of a model from safetensors says nothing of them, though /api/show knows better; the "
        "embedded engine reads the file for both",
        ("body.models[].capabilities[]", "body.models[].details.*_length"),
        cases=("models/tags",),
        kinds=("value", "extra"),
        profiles=_OURS,
        free=becomes("embedding", 512, 384),
    ),
    # What Rayllama does better than Ollama.
    Rule(
        "Ollama says 503; Anthropic's own status for `overloaded_error` is 529, and only for that "
        "do its libraries raise their `OverloadedError`",
        ("status",),
        cases=("faults/queue_full_v1_messages",),
        profiles=_RAYLLAMAS,
        free=becomes(529),
    ),
    Rule(
        "where Ollama leaves a broken stream without an end, the dialect's error comes last",
        ("line", "event"),
        cases=("faults/runner_killed_*_stream", "faults/server_sigterm_*_stream"),
        kinds=("length",),
        profiles=_RAYLLAMAS,
        free=ended_by_error,
    ),
    Rule(
        "where the engine is terminated, the connection isn't cut, for Rayllama lives on",
        ("framing",),
        cases=("faults/server_sigterm_*_stream",),
        profiles=_RAYLLAMAS,
        free=becomes("chunked"),
    ),
)


def permission(case: str, difference: Difference, profile: Profile) -> Rule | None:
    """The rule that allows this difference, or None."""
    for rule in RULES:
        if (
            profile.name in rule.profiles
            and difference.kind in rule.kinds
            and any(fnmatchcase(case, pattern) for pattern in rule.cases)
            and any(_at(difference.where, pattern) for pattern in rule.where)
            and rule.free(difference.before, difference.after)
        ):
            return rule
    return None


def _at(where: str, pattern: str) -> bool:
    return fnmatchcase(where, pattern.replace("[]", "[[]]"))


@dataclass(frozen=True)
class Skip:
    """Cases that a server of these profiles isn't asked; `why`."""

    why: str
    profiles: tuple[str, ...]
    cases: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()


SKIPS = (
    Skip(
        "OpenAI's and Anthropic's dialects are spoken by Rayllama, not by the engine",
        ("embedded",),
        paths=("/v1/*",),
    ),
)

WRITES = ("/api/create", "/api/copy", "/api/delete", "/api/pull", "/api/push", "/api/blobs/*")
"""Paths whose requests change the models of the server."""


def writes(path: str) -> bool:
    """Does a request there change the server's models?"""
    return any(fnmatchcase(path, pattern) for pattern in WRITES)


def skipped(case: str, path: str, profile: Profile) -> str | None:
    """Why a server of this profile isn't asked this, or None."""
    for skip in SKIPS:
        patterns = [(case, pattern) for pattern in skip.cases]
        patterns += [(path, pattern) for pattern in skip.paths]
        if profile.name in skip.profiles and any(
            fnmatchcase(text, pattern) for text, pattern in patterns
        ):
            return skip.why
    return None
