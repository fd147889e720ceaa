"""The bodies of the routes that change models, read as Ollama reads them."""

from typing import Any, ClassVar

from pydantic import Field

from serve.wire.gostruct import GoRequest
from serve.wire.messages import Message


class _Named(GoRequest):
    """What names a model; `name` is the older key for `model`."""

    model: str = ""
    name: str = ""

    @property
    def target(self) -> str:
        """The name, in the client's spelling."""
        return self.model or self.name


class CopyRequest(GoRequest):
    """POST /api/copy."""

    go_name: ClassVar[str] = "api.CopyRequest"

    source: str = ""
    destination: str = ""


class DeleteRequest(_Named):
    """DELETE /api/delete."""

    go_name: ClassVar[str] = "api.DeleteRequest"


class PullRequest(_Named):
    """POST /api/pull."""

    go_name: ClassVar[str] = "api.PullRequest"

    insecure: bool = False
    username: str = ""
    password: str = ""
    stream: bool | None = None


class PushRequest(_Named):
    """POST /api/push."""

    go_name: ClassVar[str] = "api.PushRequest"

    insecure: bool = False
    username: str = ""
    password: str = ""
    stream: bool | None = None


class CreateRequest(_Named):
    """POST /api/create; `from` is `base` here. Some fields have no meaning to this engine, but
    their types are checked, as the others' are."""

    go_name: ClassVar[str] = "api.CreateRequest"

    stream: bool | None = None
    quantize: str = ""
    draft_quantize: str = ""
    base: str = Field(default="", alias="from")
    remote_host: str = ""
    files: dict[str, str] = Field(default_factory=dict)
    draft_files: dict[str, str] = Field(default_factory=dict)
    adapters: dict[str, str] = Field(default_factory=dict)
    template: str = ""
    license: Any = None
    system: str = ""
    parameters: dict[str, Any] = Field(default_factory=dict)
    messages: list[Message] = Field(default_factory=list)
    renderer: str = ""
    parser: str = ""
    requires: str = ""
    info: dict[str, Any] = Field(default_factory=dict)
    quantization: str = ""
