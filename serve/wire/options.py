"""The `options` of a request: their types, their defaults, and how Ollama merges them.

Defaults < a model's own parameters < the request's `options`. A null leaves what was there, an
unknown option is ignored, a number with a fraction loses it where an integer is wanted. A value of
another type is answered with 500 by Ollama, so it is `EngineInvalid` here.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Self

from pydantic import BaseModel, ConfigDict

from serve.errors import EngineInvalid

_INT64 = 1 << 63


class Options(BaseModel):
    """Every option that Ollama 0.33 knows, with its default."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    num_ctx: int = 0
    """Tokens of context; 0 is the server's own OLLAMA_CONTEXT_LENGTH."""

    num_batch: int = 512
    num_gpu: int = -1
    main_gpu: int | None = None
    use_mmap: bool | None = None
    num_thread: int = 0
    draft_num_predict: int = 4

    num_keep: int = 4
    seed: int = -1
    """-1 is another seed each time."""

    num_predict: int = -1
    """Tokens to generate at most; 0 and below is no limit."""

    top_k: int = 40
    top_p: float = 0.9
    min_p: float = 0.0
    typical_p: float = 1.0
    repeat_last_n: int = 64
    temperature: float = 0.8
    repeat_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    stop: tuple[str, ...] = ()

    @classmethod
    def merged(cls, *maps: Mapping[str, Any]) -> Self:
        """The defaults, then each map in turn; later ones win.

        Raises `EngineInvalid` with Ollama's text for the first value of a wrong type.
        """
        values: dict[str, object] = {}
        for options in maps:
            for name, value in options.items():
                if name in _CONVERT and value is not None:
                    values[name] = _CONVERT[name](name, value)
        return cls().model_copy(update=values)


def _integer(name: str, value: object) -> int:
    """Go reads every number as a float64 and cuts it to an int64."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise EngineInvalid(f'option "{name}" must be of type integer')
    whole = int(float(value))
    return whole if -_INT64 <= whole < _INT64 else -_INT64


def _boolean(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise EngineInvalid(f'option "{name}" must be of type boolean')
    return value


def _float(name: str, value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise EngineInvalid(f'option "{name}" must be of type float32')
    return float(value)


def _strings(name: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list | tuple):
        raise EngineInvalid(f'option "{name}" must be of type array')
    if not all(isinstance(item, str) for item in value):
        raise EngineInvalid(f'option "{name}" must be of an array of strings')
    return tuple(value)


_BY_TYPE: Mapping[object, Callable[[str, object], object]] = {
    int: _integer,
    int | None: _integer,
    bool | None: _boolean,
    float: _float,
    tuple[str, ...]: _strings,
}
_CONVERT: Mapping[str, Callable[[str, object], object]] = MappingProxyType(
    {name: _BY_TYPE[field.annotation] for name, field in Options.model_fields.items()}
)
