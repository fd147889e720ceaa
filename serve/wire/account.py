"""The account, cloud and experimental routes, as an Ollama answers them that has no cloud.

Recorded from Ollama 0.33 with `OLLAMA_NO_CLOUD=1` and no network. Nothing here reaches the outside,
so no engine is asked, and every replica says the same.
"""

from collections.abc import Mapping

from msgspec import Struct

from serve.errors import NO_CLOUD, BadRequest
from serve.wire.gojson import MISSING_BODY, dumps

_K = 1 << 10


class Told(Struct, frozen=True):
    """An answer in JSON."""

    status: int
    body: bytes


def _recommended(model: str, description: str, **more: int) -> dict[str, str | int]:
    return {"model": model, "description": description, **more}


_RECOMMENDATIONS = (
    _recommended(
        "kimi-k2.6:cloud",
        "State-of-the-art coding, long-horizon execution, and multimodal agent swarm capability",
        context_length=256 * _K,
        max_output_tokens=256 * _K,
    ),
    _recommended(
        "glm-5.1:cloud",
        "Reasoning and code generation",
        context_length=198 * _K,
        max_output_tokens=128 * _K,
    ),
    _recommended(
        "qwen3.5:cloud",
        "Reasoning, coding, and agentic tool use with vision",
        context_length=256 * _K,
        max_output_tokens=32 * _K,
    ),
    _recommended(
        "minimax-m2.7:cloud",
        "Fast, efficient coding and real-world productivity",
        context_length=200 * _K,
        max_output_tokens=128_000,
    ),
    _recommended("gemma4", "Reasoning and code generation locally", vram_bytes=12_000_000_000),
    _recommended(
        "qwen3.5", "Reasoning, coding, and visual understanding locally", vram_bytes=14_000_000_000
    ),
)
"""Ollama's own list for where it can't ask for a newer one (server/model_recommendations.go)."""

_SIGNED_OUT = Told(500, dumps({"error": "there was an error signing out"}))


def _no_cloud(operation: str) -> Told:
    return Told(403, dumps({"error": f"{NO_CLOUD}{operation}"}))


ACCOUNT: Mapping[tuple[str, str], Told] = {
    ("GET", "/api/status"): Told(200, dumps({"cloud": {"disabled": True, "source": "env"}})),
    ("POST", "/api/me"): Told(503, dumps({"error": "account unavailable"})),
    ("POST", "/api/signout"): _SIGNED_OUT,
    ("DELETE", "/api/user/keys/{key}"): _SIGNED_OUT,
    ("POST", "/api/experimental/web_search"): _no_cloud("web search is unavailable"),
    ("POST", "/api/experimental/web_fetch"): _no_cloud("web fetch is unavailable"),
    ("GET", "/api/experimental/model-recommendations"): Told(
        200, dumps({"recommendations": _RECOMMENDATIONS})
    ),
}
"""By verb and path; `{key}` stands for one segment. Each path has one verb."""

NEEDS_BODY = frozenset({"/api/experimental/web_search", "/api/experimental/web_fetch"})


def told(method: str, path: str, body: bytes) -> Told:
    """The answer. Raises `BadRequest` where a body must be, and isn't."""
    if path in NEEDS_BODY and not body.strip():
        raise BadRequest(MISSING_BODY)
    return ACCOUNT[method, path]
