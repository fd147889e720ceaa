"""What Ollama's own routes answer, by Ollama's own types (its `api` package).

Nothing is decoded or made by these models: they are what the OpenAPI document says, and a test
holds them against what a real Ollama answered.
"""

from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from serve.wire.messages import Message, ToolCall

Time = Annotated[str, Field(json_schema_extra={"format": "date-time"})]
Nanoseconds = Annotated[int, Field(description="In nanoseconds.")]


class Answer(BaseModel):
    """Something that comes back; newer engines may say more than is known here."""

    model_config = ConfigDict(frozen=True, extra="allow")

    go_name: ClassVar[str]


class StatusError(Answer):
    """An error. Also the last line of a stream that failed after it began."""

    go_name: ClassVar[str] = "api.StatusError"

    error: str


class TokenLogprob(Answer):
    """A token and how likely it was."""

    go_name: ClassVar[str] = "api.TokenLogprob"

    token: str
    logprob: float
    bytes: list[int] = []


class Logprob(TokenLogprob):
    """A token of the answer, and what could have stood in its place."""

    go_name: ClassVar[str] = "api.Logprob"

    top_logprobs: list[TokenLogprob] = []


class DebugInfo(Answer):
    """What `_debug_render_only` asks for."""

    go_name: ClassVar[str] = "api.DebugInfo"

    rendered_template: str
    image_count: int = 0


class _Generated(Answer):
    """What generate and chat have in common. The last line (`done`) has counts and durations."""

    model: str
    created_at: Time
    done: bool
    done_reason: Annotated[str, Field(description="`stop`, `length`, `load` or `unload`.")] = ""
    remote_model: str = ""
    remote_host: str = ""
    total_duration: Nanoseconds = 0
    load_duration: Nanoseconds = 0
    prompt_eval_count: int = 0
    prompt_eval_duration: Nanoseconds = 0
    eval_count: int = 0
    eval_duration: Nanoseconds = 0
    logprobs: list[Logprob] = []
    debug_info: DebugInfo | None = Field(default=None, alias="_debug_info")


class GenerateResponse(_Generated):
    """A piece of the answer, or all of it."""

    go_name: ClassVar[str] = "api.GenerateResponse"

    response: str
    thinking: str = ""
    context: list[int] = []
    tool_calls: list[ToolCall] = []


class ChatResponse(_Generated):
    """A piece of the answer, or all of it."""

    go_name: ClassVar[str] = "api.ChatResponse"

    message: Message


class EmbedResponse(Answer):
    """A vector for each input, all of length 1."""

    go_name: ClassVar[str] = "api.EmbedResponse"

    model: str
    embeddings: list[list[float]]
    total_duration: Nanoseconds = 0
    load_duration: Nanoseconds = 0
    prompt_eval_count: int = 0


class EmbeddingResponse(Answer):
    """One vector, as the model gives it."""

    go_name: ClassVar[str] = "api.EmbeddingResponse"

    embedding: list[float]


class ModelDetails(Answer):
    """What a model is made of."""

    go_name: ClassVar[str] = "api.ModelDetails"

    parent_model: str
    format: str
    family: str
    families: list[str] | None
    parameter_size: str
    quantization_level: str
    context_length: int = 0
    embedding_length: int = 0


class _Listed(Answer):
    """A model in a list."""

    name: str
    model: str
    size: int
    digest: str
    details: ModelDetails


class ListModelResponse(_Listed):
    """A model that is there."""

    go_name: ClassVar[str] = "api.ListModelResponse"

    modified_at: Time
    capabilities: list[str] = []
    remote_model: str = ""
    remote_host: str = ""


class ListResponse(Answer):
    """The models that are there, newest first."""

    go_name: ClassVar[str] = "api.ListResponse"

    models: list[ListModelResponse]


class ProcessModelResponse(_Listed):
    """A model that is loaded. `replicas`, where there are several: by how many."""

    go_name: ClassVar[str] = "api.ProcessModelResponse"

    expires_at: Time
    size_vram: int
    context_length: int
    replicas: int = 1


class ProcessResponse(Answer):
    """The models that are loaded."""

    go_name: ClassVar[str] = "api.ProcessResponse"

    models: list[ProcessModelResponse]


class Tensor(Answer):
    """A tensor of a model's file."""

    go_name: ClassVar[str] = "api.Tensor"

    name: str
    type: str
    shape: list[int]


class ShowResponse(Answer):
    """A model in full."""

    go_name: ClassVar[str] = "api.ShowResponse"

    license: str = ""
    modelfile: str = ""
    parameters: str = ""
    template: str = ""
    system: str = ""
    renderer: str = ""
    parser: str = ""
    requires: str = ""
    details: ModelDetails
    messages: list[Message] = []
    remote_model: str = ""
    remote_host: str = ""
    info: dict[str, Any] = Field(alias="model_info")
    projector_info: dict[str, Any] = {}
    tensors: list[Tensor] = []
    capabilities: list[str] = []
    modified_at: Time


class ProgressResponse(Answer):
    """How far it is; at the end the status is `success`."""

    go_name: ClassVar[str] = "api.ProgressResponse"

    status: str
    digest: str = ""
    total: int = 0
    completed: int = 0


class VersionResponse(Answer):
    """The version of Ollama that answers, or that is imitated. Go's type has no name."""

    go_name: ClassVar[str] = "api.VersionResponse"

    version: str


class CloudStatus(Answer):
    """Whether Ollama's cloud is used: here it never is."""

    go_name: ClassVar[str] = "api.CloudStatus"

    disabled: bool
    source: str


class StatusResponse(Answer):
    """What is switched off."""

    go_name: ClassVar[str] = "api.StatusResponse"

    cloud: CloudStatus


class ModelRecommendation(Answer):
    """A model that Ollama recommends."""

    go_name: ClassVar[str] = "api.ModelRecommendation"

    model: str
    description: str
    context_length: int = 0
    max_output_tokens: int = 0
    vram_bytes: int = 0


class ModelRecommendationsResponse(Answer):
    """What Ollama recommends where it can't ask for more."""

    go_name: ClassVar[str] = "api.ModelRecommendationsResponse"

    recommendations: list[ModelRecommendation]
