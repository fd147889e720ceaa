"""Answers to `/api/embed`, taken apart into one entry an input, and put together again.

An input's vector doesn't depend on what else is in a batch: Ollama embeds each by itself
(server/routes.go, `EmbedHandler`). So a batch is answered from its inputs' entries, whatever
batches they came in, and an input alone shares its entry with those in batches.

A vector is held as an array of float32: four bytes a number, as the engine computed it, instead of
eleven or so as it printed it. Go prints a float32 with the fewest digits that only this float32
has; `_decimals` finds the same ones. That isn't taken on trust: when an answer is taken apart it is
printed again and compared, byte for byte. A vector that prints otherwise is held as its text, and
an answer that isn't made of its parts exactly is not taken apart at all.

What an answer says beside its vectors:

- `prompt_eval_count` is the sum over all inputs. The engine tells it for a call, not for each
  input; a call's count is shared out by the inputs' lengths in bytes so that the shares add up to
  it. So the count is exact for inputs that were asked for alone, or together as they were before,
  and close for other combinations.
- `total_duration` and `load_duration` are those of the longest of the calls that the vectors came
  from: a hit tells the times of the work that it saves, as any hit does, and the same request gets
  the same bytes as long as its parts are there.
"""

from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

from serve.wire.gojson import dumps, number

MAX_INPUTS = 1024
"""A larger batch is asked for, and kept, as a whole."""

_FLOAT32 = np.dtype("<f4")
_SHARE_BYTES = 8  # what an input weighs beside its own bytes: tokens that mark its ends
_ODD_BELOW = 1e-5  # from here on down, msgspec and Go print exponents differently
_POWERS = 10.0 ** np.arange(23)  # those that a float64 holds exactly


class Vector(Struct, frozen=True, array_like=True, gc=False):
    """One input's vector; durations in nanoseconds, of the call that it came from.

    `data`: numbers as little-endian float32, or as the engine printed them if `is_text`.
    `inputs`: how many that call had.
    """

    data: bytes
    is_text: bool
    tokens: int
    total_duration: int
    load_duration: int
    inputs: Annotated[int, Meta(ge=1)] = 1


class _Answer(Struct, forbid_unknown_fields=True):
    model: str
    embeddings: list[msgspec.Raw]
    total_duration: int = 0
    load_duration: int = 0
    prompt_eval_count: int = 0


_answer = msgspec.json.Decoder(_Answer).decode
_numbers = msgspec.json.Decoder(list[float]).decode
_print = msgspec.json.Encoder().encode
_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(Vector).decode


def texts_of(native: Mapping[str, Any]) -> list[str] | None:
    """The inputs of an embed request; None where they are no texts, or too many to look up."""
    given = native.get("input")
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not 0 < len(texts) <= MAX_INPUTS:
        return None
    return texts if all(isinstance(text, str) for text in texts) else None


def asking_for(native: Mapping[str, Any], texts: str | list[str]) -> dict[str, Any]:
    """The same request for other inputs. For one text, what that input's key is made of."""
    return {**native, "input": texts}


def pack(vector: Vector) -> bytes:
    """The vector as the one line of an entry."""
    return _pack(vector)


def unpack(lines: Sequence[bytes]) -> Vector:
    """The vector in an entry's lines. Raises `ValueError` where there is none."""
    (line,) = lines
    vector = _unpack(line)
    if not vector.is_text and (not vector.data or len(vector.data) % _FLOAT32.itemsize):
        raise ValueError("not a vector of float32")
    return vector


def split(body: bytes, texts: Sequence[str]) -> list[Vector] | None:
    """One vector for each of the texts that an engine's answer answers.

    None if the answer could not be put together again, byte for byte.
    """
    try:
        answer = _answer(body)
        printed = [bytes(raw) for raw in answer.embeddings]
        numbers = [_numbers(text) for text in printed]
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    if len(printed) != len(texts) or not all(numbers):
        return None
    if body != _body(answer.model, printed, answer):
        return None
    shares = _shares(answer.prompt_eval_count, texts)
    figures = answer.total_duration, answer.load_duration, len(texts)
    return [
        Vector(data or text, data is None, tokens, *figures)
        for data, text, tokens in zip(_floats(numbers, printed), printed, shares, strict=True)
    ]


def join(spelled: str, vectors: Sequence[Vector]) -> bytes:
    """The answer that is made of these, to a caller who spells the model like this."""
    longest = max(vectors, key=lambda vector: (vector.total_duration, vector.load_duration))
    figures = _Answer(
        spelled,
        [],
        longest.total_duration,
        longest.load_duration,
        sum(vector.tokens for vector in vectors),
    )
    return _body(spelled, _printed(vectors), figures)


def _body(model: str, printed: Sequence[bytes], figures: _Answer) -> bytes:
    """As Go prints `api.EmbedResponse`: what is 0 is left out (api/types.go, `omitempty`)."""
    parts = [b'{"model":', dumps(model), b',"embeddings":[', b",".join(printed), b"]"]
    for name in ("total_duration", "load_duration", "prompt_eval_count"):
        value: int = getattr(figures, name)
        if value:
            parts.append(b',"%b":%d' % (name.encode(), value))
    return b"".join([*parts, b"}"])


def _shares(total: int, texts: Sequence[str]) -> list[int]:
    """Whole numbers, by the texts' lengths, that add up to `total`."""
    weights = [len(text.encode(errors="replace")) + _SHARE_BYTES for text in texts]
    whole = sum(weights)
    ends = [total * weight // whole for weight in accumulate(weights, initial=0)]
    return [end - start for start, end in pairwise(ends)]


def _floats(numbers: list[list[float]], printed: list[bytes]) -> list[bytes | None]:
    """Each vector as float32, or None where that would be printed otherwise."""
    flat = np.array([value for vector in numbers for value in vector])
    with np.errstate(over="ignore"):
        floats = flat.astype(_FLOAT32)
    decimals = _decimals(floats)
    ends = accumulate(map(len, numbers), initial=0)
    return [
        floats[start:end].tobytes() if _text(decimals[start:end]) == text else None
        for (start, end), text in zip(pairwise(ends), printed, strict=True)
    ]


def _printed(vectors: Sequence[Vector]) -> list[bytes]:
    """Each vector as the engine printed it."""
    floats = [vector.data for vector in vectors if not vector.is_text]
    decimals = _decimals(np.frombuffer(b"".join(floats), _FLOAT32))
    ends = accumulate((len(data) // _FLOAT32.itemsize for data in floats), initial=0)
    texts = (_text(decimals[start:end]) for start, end in pairwise(ends))
    return [vector.data if vector.is_text else next(texts) for vector in vectors]


def _decimals(floats: NDArray[np.float32]) -> NDArray[np.float64]:
    """For each float32 the float64 that is the nearest to its shortest decimal form.

    Of the decimals with 6 digits, then 7, 8, 9, the nearest one to the number is tried; nine always
    tell two float32 apart. Dividing an integer by a power of ten that a float64 holds exactly
    rounds once, so the quotient is the float64 that the decimal would be read as. The few numbers
    whose power isn't exact (models leave some of 1e-33 behind) numpy prints one by one.
    """
    exact = floats.astype(np.float64)
    result = exact.copy()
    size = np.abs(exact)
    is_near = (size > 1e-13) & (size < 1e5)
    for index in np.flatnonzero(~is_near).tolist():
        result[index] = float(str(floats[index]))
    todo = np.flatnonzero(is_near)
    for digits in range(6, 10):
        values = exact[todo]
        powers = _POWERS[digits - 1 - np.floor(np.log10(np.abs(values))).astype(np.int64)]
        candidates = np.rint(values * powers) / powers
        fits = candidates.astype(np.float32) == floats[todo]
        result[todo[fits]] = candidates[fits]
        todo = todo[~fits]
        if not todo.size:
            break
    return result


def _text(decimals: NDArray[np.float64]) -> bytes:
    """The numbers as Go prints them, in brackets."""
    values: list[float | msgspec.Raw] = decimals.tolist()
    odd = (np.abs(decimals) < _ODD_BELOW) | (decimals == np.rint(decimals))
    for index in np.flatnonzero(odd).tolist():
        values[index] = msgspec.Raw(number(float(decimals[index])).encode())
    return _print(values)
