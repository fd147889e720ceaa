"""What becomes of each field of a request in another dialect than Ollama's own: the one table.

The README's section and the cache's reviewed list (`serve.cache.reviewed`) are made from it, and a
test holds it against what the translations do with every field of every request type, those of the
client libraries too.

A field stands for those within it, unless they are named themselves. A top-level field that a table
doesn't have is ignored, as by Ollama, but is part of the cache's key. Ollama's own routes have no
table: their bodies reach an engine as they are, unknown fields with them.
"""

from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

What = Literal["translated", "rendered", "ignored", "refused", "passed through"]


class Fate(NamedTuple):
    """What becomes of a field.

    `translated`: said to the engine in Ollama's words, and so part of the cache's key.
    `rendered`: shapes how the answer is written; the engine is not told.
    `ignored`: read by nobody, as in Ollama. `refused`: a 400, as in Ollama.
    `passed through`: reaches the engine as it came.
    """

    what: What
    how: str


Fields = Mapping[str, Fate]

UNTOLD = "Ollama's own `/v1` ignores it, so the engine is never told"


def _to(native: str) -> Fate:
    return Fate("translated", native)


def _option(name: str, absent: str = "") -> Fate:
    return _to(f"`options.{name}`" + (f"; {absent} where it is absent" if absent else ""))


def _ignored(names: Iterable[str], why: str = UNTOLD) -> dict[str, Fate]:
    return dict.fromkeys(names, Fate("ignored", why))


def _within(path: str, *names: str) -> tuple[str, ...]:
    return tuple(f"{path}.{name}" for name in names)


_MODEL = _to("`model`")
_STREAM = Fate("rendered", "as events or as one object; the engine always streams")
_STREAM_OPTIONS = Fate("rendered", "what a stream shows beside its text")
_TOOLS = _to("`tools`")
_LABELS = _ignored(("user", "metadata", "store"), "a label for OpenAI; no engine reads it")
_EFFORT = _to("`think`: `none` false, `minimal` low, `xhigh` and `ultra` max")

_CHAT: Fields = {
    "model": _MODEL,
    "messages": _to("`messages`; each part of a content becomes a message"),
    "messages.name": Fate(
        "ignored", "Ollama reads it of a tool's result alone, and there it is in the key"
    ),
    "messages.content.type": Fate("refused", "a part is text, an image or a sound"),
    "messages.content.file": Fate("refused", "so a file is none"),
    "messages.content.input_audio.format": Fate("ignored", "Ollama sees it in the sound itself"),
    "messages.tool_calls.index": Fate("ignored", "Ollama's `/v1` numbers them itself, all as 0"),
    "messages.tool_calls.custom": Fate("refused", "a call without a function has no arguments"),
    "stream": _STREAM,
    "stream_options": _STREAM_OPTIONS,
    "max_tokens": _option("num_predict"),
    "seed": _option("seed"),
    "stop": _option("stop"),
    "temperature": _option("temperature", "1.0"),
    "top_p": _option("top_p", "1.0"),
    "frequency_penalty": _option("frequency_penalty"),
    "presence_penalty": _option("presence_penalty"),
    "response_format": _to("`format`: `json_object` as `json`, a `json_schema` as its schema"),
    "tools": _TOOLS,
    "reasoning": _EFFORT,
    "reasoning_effort": _EFFORT,
    "logprobs": _to("`logprobs`"),
    "top_logprobs": _to("`top_logprobs`"),
    "_debug_render_only": _to("`_debug_render_only`"),
    **_LABELS,
    **_ignored(
        (
            *("audio", "modalities", "moderation", "prediction", "verbosity", "service_tier"),
            *("function_call", "functions", "tool_choice", "parallel_tool_calls", "n"),
            *("logit_bias", "max_completion_tokens", "web_search_options", "safety_identifier"),
            *("prompt_cache_key", "prompt_cache_options", "prompt_cache_retention"),
            *("messages.audio", "messages.function_call", "messages.refusal"),
            "messages.content.prompt_cache_breakpoint",
            "messages.content.image_url.detail",
            "messages.tool_calls.type",
            "response_format.json_schema.name",
            "response_format.json_schema.description",
            "response_format.json_schema.strict",
        )
    ),
    "messages.content.refusal": Fate("refused", "nor is a refusal"),
}

_COMPLETIONS: Fields = {
    "model": _MODEL,
    "prompt": _to("`prompt`; one string"),
    "suffix": _to("`suffix`"),
    "stream": _STREAM,
    "stream_options": _STREAM_OPTIONS,
    "max_tokens": _option("num_predict"),
    "seed": _option("seed"),
    "stop": _option("stop"),
    "temperature": _option("temperature", "1.0"),
    "top_p": _option("top_p", "1.0"),
    "frequency_penalty": _option("frequency_penalty", "0"),
    "presence_penalty": _option("presence_penalty", "0"),
    "logprobs": _to("`logprobs` and `top_logprobs`; the answer doesn't show them"),
    "_debug_render_only": _to("`_debug_render_only`"),
    "user": _LABELS["user"],
    **_ignored(("best_of", "echo", "logit_bias", "n")),
}

_EMBEDDINGS: Fields = {
    "model": _MODEL,
    "input": _to("`input`"),
    "dimensions": _to("`dimensions`"),
    "encoding_format": Fate("rendered", "how the numbers are written"),
    "user": _LABELS["user"],
}

_OF_FUNCTIONS = ("strict", "allowed_callers", "async", "defer_loading", "format", "output_schema")
_OF_OPENAIS_OWN = (
    *("action", "allowed_tools", "authorization", "background", "complexity", "connector_id"),
    *("container", "display_height", "display_width", "environment", "execution", "headers"),
    *("external_web_access", "filters", "frame_count", "frame_duration_ms", "input_fidelity"),
    *("input_image_mask", "max_num_results", "model", "moderation", "output_compression"),
    *("output_format", "partial_images", "quality", "ranking_options", "require_approval"),
    *("search_content_types", "search_context_size", "server_description", "server_label"),
    *("server_url", "size", "svg", "tunnel_id", "user_location", "vector_store_ids"),
)
"""Of tools that OpenAI runs itself, and of those that are no functions."""

_RESPONSES: Fields = {
    "model": _MODEL,
    "input": _to("`messages`; thinking joins the message after it, calls the one before"),
    **_ignored(
        (
            *("input.content.detail", "input.output.detail"),
            *("input.content.file_id", "input.output.file_id"),
            *("input.id", "input.status", "input.action", "input.summary"),
            *_within("input", "async", "caller", "namespace", "phase"),
            *_within("input.content", "annotations", "logprobs", "prompt_cache_breakpoint"),
            "input.output.prompt_cache_breakpoint",
            *_within("text", "format.name", "format.description", "format.strict", "verbosity"),
            *_within("reasoning", "generate_summary", "summary", "context", "mode"),
            *_within("tools", *_OF_FUNCTIONS, *_OF_OPENAIS_OWN),
            *_within("tools.tools", *_OF_FUNCTIONS),
            *("background", "conversation", "include", "truncation", "previous_response_id"),
            *("access_programs", "background_options", "context_management", "image"),
            *("max_tool_calls", "moderation", "parallel_tool_calls", "prompt", "tool_choice"),
            *("prompt_cache_key", "prompt_cache_options", "prompt_cache_retention"),
            *("safety_identifier", "service_tier", "stream_options", "top_logprobs"),
        )
    ),
    **dict.fromkeys(
        ("input.type", "input.content.type", "input.output.type"),
        Fate("refused", "an item or a part of a kind that Ollama doesn't know"),
    ),
    **dict.fromkeys(
        tuple(
            f"input.{holder}.{name}"
            for holder in ("content", "output")
            for name in ("file_data", "file_url", "filename")
        ),
        Fate("refused", "a file is not taken"),
    ),
    "instructions": _to("a system message before the others"),
    "tools": _to("`tools`; a namespace's under its name, a search as a function"),
    "stream": _STREAM,
    "max_output_tokens": _option("num_predict"),
    "temperature": _option("temperature", "1.0"),
    "top_p": _option("top_p"),
    "reasoning": _EFFORT,
    "text": _to("`format`, of a `json_schema`"),
    **_LABELS,
}

_OF_IMAGES = ("source.content", "source.file_id", "transformations")
_OF_RESULTS = (
    *("citations", "content", "context", "encrypted_content", "encrypted_stdout", "error_message"),
    *("file_type", "is_file_update", "lines", "new_lines", "new_start", "num_lines", "old_lines"),
    *("old_start", "page_age", "retrieved_at", "return_code", "start_line", "state_changes"),
    *("stderr", "stdout", "tabs", "tool_name", "tool_references", "total_lines"),
)
"""Within what a tool gave: of blocks that are neither texts nor images nor found on the web."""
_OF_ANTHROPICS_OWN = (
    *("allowed_callers", "allowed_domains", "blocked_domains", "cache_control", "citations"),
    *("configs", "defer_loading", "eager_input_streaming", "input_examples", "max_characters"),
    *("max_content_tokens", "max_uses", "response_inclusion", "strict", "url_sources", "use_cache"),
    "user_location",
)

_MESSAGES: Fields = {
    "model": _MODEL,
    "messages": _to("`messages`; the results of tools become messages of their own"),
    "messages.content.source.type": Fate("ignored", "only base64 is taken; all else is refused"),
    "messages.content.source.media_type": Fate("ignored", "Ollama sees it in the image itself"),
    "messages.content.source.url": Fate("ignored", "an image by its address is refused"),
    "messages.content.citations": Fate("ignored", "where it is a list; all else is refused"),
    "system": _to("a system message before the others"),
    "max_tokens": _option("num_predict"),
    "temperature": _option("temperature"),
    "top_p": _option("top_p"),
    "top_k": _option("top_k"),
    "stop_sequences": _option("stop"),
    "stream": _STREAM,
    "tools": _to("`tools`; a search as a function"),
    "thinking": _to("`think`, which a model that can't think is not asked"),
    "output_config": _to("`think`, by its effort"),
    "output_config.format": Fate(
        "ignored", "as by Ollama; no answer in this dialect follows a schema"
    ),
    "metadata": Fate("ignored", "who asks; no engine reads it"),
    **_ignored(
        (
            *("cache_control", "container", "diagnostics", "inference_geo", "service_tier"),
            *("speed", "user_profile_id", "workspace_id", "tool_choice"),
            *("thinking.budget_tokens", "thinking.display"),
            *_within("system", "cache_control", "citations"),
            *_within("tools", *_OF_ANTHROPICS_OWN),
            *_within("messages.content", "cache_control", "caller", "context"),
            *_within("messages.content", "data", "file_id", "is_error", "signature", "title"),
            *_within("messages.content", "toolset_name", *_OF_IMAGES),
            *_within("messages.content.content", "cache_control", *_OF_RESULTS, *_OF_IMAGES),
            *_within("messages.content.content.source", "media_type", "type", "url"),
        )
    ),
}

_TRANSCRIPTIONS: Fields = dict.fromkeys(
    ("file", "model", "language", "prompt", "response_format"),
    Fate("passed through", "the form goes to an engine as it came"),
)

FIELDS: Mapping[str, Fields] = {
    "/v1/chat/completions": _CHAT,
    "/v1/completions": _COMPLETIONS,
    "/v1/embeddings": _EMBEDDINGS,
    "/v1/responses": _RESPONSES,
    "/v1/messages": _MESSAGES,
    "/v1/audio/transcriptions": _TRANSCRIPTIONS,
}
"""By route and by path, names joined by dots."""


def fate(route: str, path: str) -> Fate | None:
    """What becomes of a field: its own entry, or that of the innermost one that it is part of."""
    fields = FIELDS[route]
    while path and path not in fields:
        path = path.rpartition(".")[0]
    return fields.get(path)
