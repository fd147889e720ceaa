"""The reviewed list: every field of a request that the key leaves out, and why it may.

Whatever is not named here is in the key. A test walks every field of every request type, of the
client libraries' and of our own, and fails for one that is neither in the key nor here, and for one
that stands here and is in the key.
"""

from collections.abc import Mapping

IGNORED: Mapping[str, str] = {
    "model": "its spelling only: the content digest is in the key, and replies echo the caller's",
    "stream": "an entry holds the chunks, from which both forms are rendered",
    "keep_alive": "how long the model stays loaded afterwards, not what it says",
    "user": "OpenAI's end-user label; no engine reads it",
    "metadata": "OpenAI's labels for stored completions; no engine reads them",
    "store": "OpenAI's wish to keep the completion on their side; no engine reads it",
}
"""Top-level fields of a native request."""

IGNORED_WHEN_GREEDY: Mapping[str, str] = {
    "top_p": "at temperature 0 it only removes tokens that would not be taken",
}
"""Options."""

_UNTOLD = "Ollama's own `/v1` ignores it, so the engine is never told"
_STREAM_OPTIONS = "what a stream shows beside its text; rendered from the same entry"

_CHAT: Mapping[str, str] = {
    **dict.fromkeys(
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
        ),
        _UNTOLD,
    ),
    "messages.name": "Ollama reads it of a tool's result alone, and there it is in the key",
    "messages.content.input_audio.format": "Ollama sees it in the sound itself",
    "messages.tool_calls.index": "Ollama's `/v1` numbers them itself, all as 0",
    "stream_options": _STREAM_OPTIONS,
}

_COMPLETIONS: Mapping[str, str] = {
    **dict.fromkeys(("best_of", "echo", "logit_bias", "n"), _UNTOLD),
    "stream_options": _STREAM_OPTIONS,
}

_EMBEDDINGS: Mapping[str, str] = {
    "encoding_format": "how the numbers are written; rendered from the same entry",
}

_MESSAGES: Mapping[str, str] = {
    **dict.fromkeys(
        (
            *("cache_control", "container", "diagnostics", "inference_geo", "service_tier"),
            *("speed", "user_profile_id", "workspace_id", "tool_choice"),
            *("thinking.budget_tokens", "tools.max_uses", "messages.content.citations"),
            *("messages.content.is_error", "messages.content.signature"),
        ),
        _UNTOLD,
    ),
    "messages.content.source.type": "only base64 is taken; all else is refused",
    "messages.content.source.media_type": "Ollama sees it in the image itself",
    "messages.content.source.url": "an image by its address is refused",
}

UNTOLD: Mapping[str, Mapping[str, str]] = {
    "/v1/chat/completions": _CHAT,
    "/v1/completions": _COMPLETIONS,
    "/v1/embeddings": _EMBEDDINGS,
    "/v1/messages": _MESSAGES,
}
"""Fields of other dialects' routes, by path, that their translation to a native request leaves out.
The key is over what it is translated into, so it can't tell them apart, and neither can the engine.
What nobody has heard of is left out there too: no engine sees it."""
