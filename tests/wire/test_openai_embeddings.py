import json
from base64 import b64encode
from typing import Any

import numpy as np
import pytest

from serve.errors import BadRequest
from serve.wire.openai_embeddings import decode_embeddings, embedding_list, embeddings_to_native

NATIVE = b'{"model":"n","embeddings":[[0.1,1e-7],[2,-3.5]],"prompt_eval_count":7}'
USAGE = '"model":"m","usage":{"prompt_tokens":7,"total_tokens":7}}\n'


def body(**asked: Any) -> bytes:
    return json.dumps({"model": "m", **asked}).encode()


@pytest.mark.parametrize(
    ("asked", "native"),
    [
        ({"input": "a"}, {"input": "a"}),
        ({"input": ""}, {"input": [""]}),
        ({"input": ["a", "b"], "dimensions": 3}, {"input": ["a", "b"], "dimensions": 3}),
        ({"input": [1], "encoding_format": "BASE64", "options": {}}, {"input": [1]}),
    ],
)
def test_requests_become_native_ones(asked: dict[str, Any], native: dict[str, Any]) -> None:
    assert embeddings_to_native(decode_embeddings(body(**asked))) == {"model": "m", **native}


@pytest.mark.parametrize("asked", [{}, {"input": None}, {"input": []}])
def test_no_input_is_refused(asked: dict[str, Any]) -> None:
    with pytest.raises(BadRequest, match=r"^invalid input$"):
        decode_embeddings(body(**asked))


def test_numbers_are_as_the_engine_printed_them() -> None:
    request = decode_embeddings(body(input=["a", "b"]))
    assert embedding_list(request, NATIVE).decode() == (
        '{"object":"list","data":[{"object":"embedding","embedding":[0.1,1e-7],"index":0},'
        '{"object":"embedding","embedding":[2,-3.5],"index":1}],' + USAGE
    )


def test_base64_is_of_float32() -> None:
    request = decode_embeddings(body(input=["a", "b"], encoding_format="base64"))
    data = json.loads(embedding_list(request, NATIVE))["data"]
    packed = [
        b64encode(np.array(row, "<f4").tobytes()).decode() for row in ([0.1, 1e-7], [2, -3.5])
    ]
    assert [row["embedding"] for row in data] == packed


def test_none_are_a_null() -> None:
    request = decode_embeddings(body(input="a"))
    assert json.loads(embedding_list(request, b'{"model":"m","embeddings":[]}'))["data"] is None
