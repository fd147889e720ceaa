"""What a model must be able to do for a request, and Ollama's words where it can't."""

from serve.embedded.models import LocalModel
from serve.errors import BadRequest
from serve.wire.native import quoted


def top_logprobs_in_range(count: int) -> None:
    """Raises `BadRequest` unless 0 to 20 rivals are asked for."""
    if not 0 <= count <= 20:
        raise BadRequest("top_logprobs must be between 0 and 20")


def choose_thinking(model: LocalModel, name: str, asked: bool | str | None) -> bool | str | None:  # noqa: FBT001 - a value of the request
    """Whether to think: a model that can, does unless told not to.

    Raises `BadRequest` where one that can't is asked to; `name` is the caller's spelling.
    """
    if "thinking" in model.capabilities:
        return True if asked is None else asked
    if asked:
        raise BadRequest(f"{quoted(name)} does not support thinking")
    return asked


def require(
    model: LocalModel, name: str, task: str, *, tools: bool = False, insert: bool = False
) -> None:
    """Raises `BadRequest` for an embedding model, and for tools or a suffix where it knows none."""
    if "completion" not in model.capabilities:
        raise BadRequest(f"{quoted(name)} does not support {task}")
    lacking = [
        capability
        for capability, wanted in (("tools", tools), ("insert", insert))
        if wanted and capability not in model.capabilities
    ]
    if lacking:
        raise BadRequest(f"{model.name} does not support {lacking[0]}")
