"""What a request means, as 16 bytes: two requests share an answer only if their keys are equal.

The whole request goes in, as it is sent to the engine, except for the reviewed list
(`serve.cache.reviewed`).
Fields that nobody here has heard of go in too: a field that a later Ollama honours makes a miss,
never a wrong hit. Text is never altered, and absent, null and a spelled-out default are three
different requests: at worst that is a miss.

Order. Top-level fields and `options` are looked up by name, so their order means nothing and they
are sorted. Everything deeper keeps its order: tools, `format` and tool arguments reach the prompt
or the grammar in the order they were written in.
Go matches field names whatever their case and lets the last one win; so names that differ only in
case keep their order among each other.

The date. A template may print it (`serve.wire.dates`); only then is the engine's local date a part.

Numbers. Ollama reads `options` into Go's `map[string]any`, where every JSON number is a float64
(api/types.go, `Options.FromMap`): there 1 and 1.0 are the same, up to 2^53. Nowhere else.

Two dialects. A request to `/v1/chat/completions` is keyed as the `/api/chat` request that it is
translated into, with the dialect's defaults filled in; so one generation has one key, whichever way
it is asked for, where the two bodies resolve to the same options. `/v1` always resolves `top_p`
(1.0 where it is absent), natively its absence means the model's own. At temperature 0 that makes
no difference: of the candidates the likeliest is taken, and `top_p` only ever removes less likely
ones, at least one stays. There, and only there, a `top_p` between 0 and 1 is left out
(`IGNORED_WHEN_GREEDY`), unless the request wants `logprobs`. No other default is filled in: each
may be set by a Modelfile, or could show in a template (`"tools": []` prints otherwise than none).

A top-level field of a `/v1` request that its dialect's table doesn't have goes in too, though no
engine is told: it means something to who sends it, and makes a miss at worst. Nobody reads it, so
its order means nothing at any depth. A native request that says the same shares no answer with it:
there the engine is told.

The encoding under the hash is msgpack: every value carries its type and its length, so 1, 1.0,
true and "1" differ and no two lists of parts run together. 128 bits of BLAKE2b: to meet another
request's key by work takes 2^64 tries, and the tenant is in the key, so one would only fool
oneself.
"""

import json
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

import msgspec

from serve.cache.reviewed import IGNORED, IGNORED_WHEN_GREEDY

KEY_BYTES = 16
UNKNOWN = "unknown to /v1"
"""The name under which a native request brings along what its dialect's table does not have."""

_EXACT_IN_FLOAT64 = 1 << 53
_encode = msgspec.msgpack.Encoder().encode


def request_key(
    route: str,
    native: Mapping[str, Any],
    *,
    digest: str,
    fingerprint: str,
    tenant: str,
    day: str = "",
) -> bytes:
    """The key of a native request body.

    `route` is the native route (`/api/chat`), whatever dialect the request came in. `digest` is the
    content digest that the model's name stands for, `fingerprint` the engine's runtime. `day`: the
    engine's local date where the prompt may hold it (`serve.wire.dates`), else "".
    Raises `RecursionError` where the body is nested too deeply to encode.
    """
    options = native.get("options")
    fields = sorted(
        (
            [name, _sorted(value) if name == UNKNOWN else value]
            for name, value in native.items()
            if name not in IGNORED and name != "options"
        ),
        key=_folded,
    )
    if not native.get("logprobs"):
        options = _without_idle(options)
    meaning = [route, tenant, digest, fingerprint, fields, _options(options)]
    if day:
        meaning.append(day)
    return blake2b(_bytes(meaning), digest_size=KEY_BYTES, person=b"rayllama-key-1").digest()


def _sorted(value: object) -> object:
    """With the names of objects in order, at every depth."""
    if isinstance(value, Mapping):
        return {name: _sorted(value[name]) for name in sorted(value)}
    return [_sorted(item) for item in value] if isinstance(value, list) else value


def _folded(field: list[Any]) -> str:
    name: str = field[0]
    return name.casefold()


def _without_idle(options: object) -> object:
    """`options` without those that can't change what is generated."""
    if not isinstance(options, Mapping) or not _is_zero(options.get("temperature")):
        return options
    return {
        name: value
        for name, value in options.items()
        if not (name in IGNORED_WHEN_GREEDY and type(value) in (int, float) and 0 < value <= 1)
    }


def _is_zero(value: object) -> bool:
    return type(value) in (int, float) and value == 0


def _options(options: object) -> object:
    """`options` sorted by name; null and {} are what Ollama makes of an absent one: no options."""
    if options is None:
        return []
    if not isinstance(options, Mapping):
        return {"options": options}  # the engine refuses it; a shape that no real options have
    return [[name, _number(options[name])] for name in sorted(options)]


def _number(value: object) -> object:
    if type(value) is int and -_EXACT_IN_FLOAT64 <= value <= _EXACT_IN_FLOAT64:
        return float(value)
    return value


def _bytes(meaning: list[Any]) -> bytes:
    try:
        return b"m" + _encode(meaning)
    except (OverflowError, UnicodeEncodeError):
        # Integers beyond 64 bits and lone surrogates: msgpack has no form for them, JSON has.
        return b"j" + json.dumps(meaning).encode()
