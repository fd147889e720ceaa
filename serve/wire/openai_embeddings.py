"""POST /v1/embeddings: the native request that it becomes, and the answer from a native one.

As in Ollama (openai/openai.go): there are no options and no `truncate`, and what an input may be is
for /api/embed to say.
"""

import base64
import struct
from typing import Any, ClassVar

import msgspec

from serve.errors import BadRequest
from serve.wire.gojson import dumps
from serve.wire.gostruct import GoRequest, Int, decode


class EmbeddingsRequest(GoRequest):
    """The body of POST /v1/embeddings."""

    go_name: ClassVar[str] = "openai.EmbedRequest"

    input: Any = None
    model: str = ""
    dimensions: Int = 0
    encoding_format: str = ""


def decode_embeddings(body: bytes) -> EmbeddingsRequest:
    """The request in `body`. Raises `BadRequest` with Ollama's text."""
    request = decode(body, EmbeddingsRequest, empty="EOF")
    if request.encoding_format.lower() not in ("", "float", "base64"):
        raise BadRequest(
            f"Invalid value for 'encoding_format' = {request.encoding_format}. "
            "Supported values: ['float', 'base64']."
        )
    if request.input is None or request.input == []:
        raise BadRequest("invalid input")
    return request


def embeddings_to_native(request: EmbeddingsRequest) -> dict[str, Any]:
    """The body of /api/embed that asks for the same. An empty text is one text, not none."""
    inputs = [""] if request.input == "" else request.input
    native = {"model": request.model, "input": inputs}
    return native | ({"dimensions": request.dimensions} if request.dimensions else {})


class _Embedded(msgspec.Struct):
    embeddings: list[msgspec.Raw] | None = None
    prompt_eval_count: int = 0


def embedding_list(request: EmbeddingsRequest, native: bytes) -> bytes:
    """The body of the answer, from that of /api/embed; numbers as the engine printed them.

    Raises `ValueError` for what isn't one.
    """
    embedded = _decode(native)
    if embedded.embeddings is None:
        return (
            b'{"object":"","data":null,"model":"","usage":{"prompt_tokens":0,"total_tokens":0}}\n'
        )
    as_text = request.encoding_format.lower() == "base64"
    data = [
        b'{"object":"embedding","embedding":%b,"index":%d}'
        % (_packed(bytes(vector)) if as_text else bytes(vector), index)
        for index, vector in enumerate(embedded.embeddings)
    ]
    tokens = embedded.prompt_eval_count
    return b'{"object":"list","data":%b,"model":%b,"usage":%b}\n' % (
        b"[%b]" % b",".join(data) if data else b"null",
        dumps(request.model),
        dumps({"prompt_tokens": tokens, "total_tokens": tokens}),
    )


def _packed(printed: bytes) -> bytes:
    """Little-endian float32 in base64, as JSON."""
    numbers = _numbers(printed)
    return b'"%b"' % base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers))


_decode = msgspec.json.Decoder(_Embedded).decode
_numbers = msgspec.json.Decoder(list[float]).decode
