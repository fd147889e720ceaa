"""The one exception tree: whose fault, which status, whether to try again.

RayllamaError
├── ClientError                   the request is wrong; the same bytes fail again
│   ├── BadRequest           400  a body, name or option that Ollama refuses
│   │   └── BadEncoding      400  a body that is not zstd, though it says so
│   ├── CloudDisabled        403  a model of Ollama's cloud
│   ├── Unauthorized         401  no key, or an unknown one
│   ├── Forbidden            403  a key without the right, a refused Origin
│   ├── NotFound             404  no such model
│   ├── BodyTooLarge         413  over `ingress.max_body_bytes`
│   └── NotCapable           501  the model or the engine cannot do this at all
├── CapacityError                 right now too much; try again later
│   ├── Overloaded           503  the queue before the engines is full
│   └── DeadlineExceeded     504  the request's own time ran out
├── EngineError                   an Ollama server (or what stands in for one) failed
│   ├── EngineRefused          *  it answered with an error of its own; passed on as it was
│   ├── EngineDied           500  it, or its model runner, went away in the middle
│   ├── EngineInvalid        500  it did not understand its own options
│   └── EngineNotReady       503  it is not up (yet, or again)
├── NotCached                504  `only-if-cached`, and no answer is in memory
├── SnapshotRefused          422  a file that can't be read as entries of the cache
├── Unforeseen               500  a fault of our own; the log has the traceback
├── CacheUnavailable         ---  a shard did not answer in time; always handled as a miss
└── ConfigError              ---  refused at start, with the key's path and the fix

Texts that clients match on are Ollama's own (0.33, recorded).
"""

from typing import ClassVar, Literal

Fault = Literal["client", "capacity", "engine", "cache", "operator", "ours"]

SERVER_BUSY = "server busy, please try again.  maximum pending requests exceeded"
NO_CLOUD = "ollama cloud is disabled: "
RUNNER_DIED = "an error was encountered while running the model: unexpected EOF"
RUNNER_GONE = (
    "model runner has unexpectedly stopped, this may be due to resource limitations "
    "or an internal error, check ollama server logs for details"
)


class RayllamaError(Exception):
    """The root. `str(error)` is the text that a client reads; it never holds a prompt or a key."""

    fault: ClassVar[Fault]
    code: ClassVar[str]
    status: int = 500
    retryable: ClassVar[bool] = False


class ClientError(RayllamaError):
    """The request is wrong: sending the same bytes again fails again."""

    fault: ClassVar[Fault] = "client"
    code: ClassVar[str] = "client_error"
    status = 400


class BadRequest(ClientError):
    """A body, a name or an option that Ollama refuses."""

    code: ClassVar[str] = "bad_request"


class BadEncoding(BadRequest):
    """A body that is not in the encoding it says it is in: refused before any dialect is known."""

    code: ClassVar[str] = "bad_encoding"


class CloudDisabled(ClientError):
    """A model of Ollama's cloud, of which this server has none."""

    code: ClassVar[str] = "cloud_disabled"
    status = 403

    def __init__(self, operation: str = "remote model is unavailable") -> None:
        super().__init__(f"{NO_CLOUD}{operation}")


class Unauthorized(ClientError):
    """No key where one is needed, or an unknown one."""

    code: ClassVar[str] = "unauthorized"
    status = 401


class Forbidden(ClientError):
    """A key without the right to this route, or an Origin that is not allowed."""

    code: ClassVar[str] = "forbidden"
    status = 403


class NotFound(ClientError):
    """No such model."""

    code: ClassVar[str] = "not_found"
    status = 404


class BodyTooLarge(ClientError):
    """A body over `ingress.max_body_bytes`."""

    code: ClassVar[str] = "body_too_large"
    status = 413


class NotCapable(ClientError):
    """The model, or this engine, can't do what was asked, whatever the input."""

    code: ClassVar[str] = "not_capable"
    status = 501


class CapacityError(RayllamaError):
    """Too much right now; the same request may succeed later."""

    fault: ClassVar[Fault] = "capacity"
    code: ClassVar[str] = "capacity"
    status = 503
    retryable: ClassVar[bool] = True
    retry_after_s: int = 1


class Overloaded(CapacityError):
    """The bounded queue before the engines is full."""

    code: ClassVar[str] = "overloaded"

    def __init__(self, message: str = SERVER_BUSY) -> None:
        super().__init__(message)


class DeadlineExceeded(CapacityError):
    """The request's own deadline passed before its answer began."""

    code: ClassVar[str] = "deadline_exceeded"
    status = 504


class EngineError(RayllamaError):
    """An Ollama server, or what stands in for one, failed."""

    fault: ClassVar[Fault] = "engine"
    code: ClassVar[str] = "engine_error"


class EngineRefused(EngineError):
    """The engine answered with an error of its own, which is passed on with its status."""

    code: ClassVar[str] = "engine_refused"

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class EngineDied(EngineError):
    """The engine or its model runner went away in the middle of an answer."""

    code: ClassVar[str] = "engine_died"
    retryable: ClassVar[bool] = True

    def __init__(self, message: str = RUNNER_DIED) -> None:
        super().__init__(message)


class EngineInvalid(EngineError):
    """What Ollama answers with 500 although the client could have known better."""

    code: ClassVar[str] = "engine_invalid"


class EngineNotReady(EngineError):
    """The engine is not up: starting, restarting, or given up on."""

    code: ClassVar[str] = "engine_not_ready"
    status = 503
    retryable: ClassVar[bool] = True


class Unforeseen(RayllamaError):
    """A fault of our own. Clients are told the request's id, under which the log tells more."""

    fault: ClassVar[Fault] = "ours"
    code: ClassVar[str] = "unforeseen"


class CacheUnavailable(RayllamaError):
    """A cache shard did not answer in its time. Callers treat it as a miss."""

    fault: ClassVar[Fault] = "cache"
    code: ClassVar[str] = "cache_unavailable"
    retryable: ClassVar[bool] = True


class NotCached(RayllamaError):
    """The client takes only an answer from memory, and there is none (RFC 9111 §5.2.1.7)."""

    fault: ClassVar[Fault] = "cache"
    code: ClassVar[str] = "not_cached"
    status = 504


class SnapshotRefused(RayllamaError):
    """A file that is damaged, cut, from a newer version, or no snapshot at all; the text names it
    and says which."""

    fault: ClassVar[Fault] = "operator"
    code: ClassVar[str] = "snapshot_refused"
    status = 422


class ConfigError(RayllamaError):
    """A configuration or a machine that Rayllama refuses to start on; the text says the fix."""

    fault: ClassVar[Fault] = "operator"
    code: ClassVar[str] = "config"
