"""The one list of what may differ from a recording, each with its reason.

A difference that no rule here names fails a test. Rules name cases and places by patterns (`*`),
and kinds as `compare.Difference` does.
"""

from dataclasses import dataclass
from fnmatch import fnmatchcase


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
PROFILES = {p.name: p for p in (OLLAMA, EMBEDDED, RAYLLAMA, RAYLLAMA_ON_OLLAMA)}


@dataclass(frozen=True)
class Rule:
    """In these cases, at these places, these kinds of difference are right; `why`."""

    why: str
    where: tuple[str, ...]
    cases: tuple[str, ...] = ("*",)
    kinds: tuple[str, ...] = ("value",)
    profiles: tuple[str, ...] = ("ollama", "embedded", "rayllama", "rayllama-on-ollama")


_OURS = ("embedded", "rayllama")
_OLLAMAS = ("ollama", "rayllama-on-ollama")

RULES = (
    # What differs between two answers of one server.
    Rule("generated text depends on llama.cpp's build", ("*.response", "*.content", "*.thinking")),
    Rule("… and so does whether it ends by itself before its limit", ("*.done_reason",)),
    Rule(
        "… in OpenAI's words too",
        ("*.choices[].finish_reason", "*.choices[].text", "*.reasoning", "*.delta"),
    ),
    Rule("… and in Anthropic's", ("*.content[].text", "*.delta.text", "*.stop_reason")),
    Rule("the tokens of generated text", ("*.context", "*.context[]"), kinds=("value", "length")),
    Rule(
        "log probabilities of generated tokens",
        ("*.token", "*.logprob", "*.bytes", "*.bytes[]"),
        kinds=("value", "length"),
    ),
    Rule("times", ("*.created_at", "*.modified_at", "*.expires_at", "*.created", "*.completed_at")),
    Rule("durations", ("*_duration",)),
    Rule("counts of generated tokens", ("*.eval_count", "*.usage.*_tokens", "*.output_tokens")),
    Rule("ids are random or counted", ("*.id", "*.request_id", "*.item_id")),
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
    ),
    Rule(
        "a text without a limit may outgrow the buffer in which Go counts an answer's length",
        ("framing",),
        cases=("openai/chat_stop_bad",),
    ),
    # What is another file or another machine, but the same thing.
    Rule(
        "the newest model comes first, and which is newest is another matter elsewhere",
        ("body.models",),
        cases=("models/tags",),
        kinds=("order",),
    ),
    Rule("a digest stands for the weights, template and parameters that are here", ("*.digest",)),
    Rule("bytes of another file, and of memory", ("*.size",)),
    Rule(
        "the folder of this machine's models, or how it fails to resolve a name",
        ("body.modelfile", "line.error", "body.error"),
        cases=(
            "*/show*",
            "models/create_from_unknown",
            "models/create_from_missing_blob",
            "models/pull_offline*",
            "models/push_*",
        ),
        profiles=_OLLAMAS,
    ),
    Rule(
        "… and on two replicas each says it of its own",
        ("line.error", "body.error"),
        cases=(
            "models/create_from_unknown",
            "models/create_from_missing_blob",
            "models/pull_offline*",
            "models/push_*",
        ),
        profiles=("rayllama",),
    ),
    Rule(
        "the digests of layers that hold another file",
        ("line.status",),
        cases=("models/create_from", "pull/pull*"),
        profiles=_OURS,
    ),
    Rule(
        "how fast the bytes came, and layers of another length",
        ("line.completed", "line.total"),
        cases=("pull/pull", "pull/pull_again"),
        profiles=_OURS,
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
        "the embedded engine has Jinja templates where Ollama has Go ones; the texts differ, what "
        "they render is equal (generate/debug_render)",
        ("body.template", "body.modelfile"),
        cases=("*/show*",),
        profiles=_OURS,
    ),
    Rule(
        "a request with a Go template is refused, with what to do instead",
        ("*",),
        cases=("generate/template", "models/create_template"),
        kinds=("value", "missing", "extra", "length"),
        profiles=_OURS,
    ),
    Rule(
        "`smollm2` is served under that name as well, and listed, so that it is cached by digest",
        ("body.models", "body.data"),
        cases=("models/tags", "models/v1_models"),
        kinds=("extra", "length"),
        profiles=_OURS,
    ),
    Rule(
        "… and the longer list doesn't fit into Go's buffer",
        ("framing",),
        cases=("models/tags",),
        profiles=_OURS,
    ),
    Rule(
        "a model of the embedded engine is a file, which was made from no other model",
        ("body.details.parent_model",),
        cases=("capabilities/show_*",),
        profiles=_OURS,
    ),
    Rule(
        "Jinja prints tools and their calls with other spaces than Go",
        ("body.prompt_eval_count",),
        cases=("capabilities/tool*",),
        profiles=_OURS,
    ),
    Rule(
        "Ollama's list calls all-minilm a completion model without lengths, since its manifest "
        "of a model from safetensors says nothing of them, though /api/show knows better; the "
        "embedded engine reads the file for both",
        ("body.models[].capabilities*", "body.models[].details.*_length"),
        cases=("models/tags",),
        kinds=("value", "extra"),
        profiles=_OURS,
    ),
)


def permission(case: str, where: str, kind: str, profile: Profile) -> Rule | None:
    """The rule that allows this difference, or None."""
    for rule in RULES:
        if (
            profile.name in rule.profiles
            and kind in rule.kinds
            and any(fnmatchcase(case, pattern) for pattern in rule.cases)
            and any(fnmatchcase(where, pattern.replace("[]", "[[]]")) for pattern in rule.where)
        ):
            return rule
    return None


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
