"""What a runner is asked: sampling, formats, messages, and prompts that fit into the context."""

import base64
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from serve.embedded.gguf_facts import float32
from serve.embedded.loaded import Loaded
from serve.embedded.schemas import conversion_fault
from serve.errors import EngineInvalid, EngineRefused
from serve.wire.messages import ImageData, Message, Tool
from serve.wire.native import quoted
from serve.wire.options import Options

_LIMIT_CONTEXTS = 10
"""An answer without a limit of its own ends after this many contexts."""

TOO_LONG = (
    "the prompt is longer than the context length currently available to the model; shorten the "
    "prompt, adjust the context length in settings, or use a model with a longer context length"
)

JSON_GRAMMAR = r"""
root ::= object
value ::= object | array | string | number | "true" | "false" | "null"
object ::= "{" space ( pair ( "," space pair )* )? "}" space
pair ::= string space ":" space value space
array ::= "[" space ( value space ( "," space value space )* )? "]"
string ::= "\"" ( [^"\\\x7F\x00-\x1F] | "\\" ( ["\\/bfnrt] | "u" hex hex hex hex ) )* "\""
hex ::= [0-9a-fA-F]
number ::= "-"? ( "0" | [1-9] [0-9]* ) ( "." [0-9]+ )? ( [eE] [-+]? [0-9]+ )?
space ::= [ \t\n]*
"""


@dataclass(frozen=True, slots=True)
class Question:
    """The part of a generate or chat request that both have."""

    options: Options
    format: Any = None
    think: bool | str | None = None
    truncate: bool = True
    logprobs: bool = False
    top_logprobs: int = 0
    tools: Sequence[Tool] = field(default=())


def sampling(question: Question, loaded: Loaded) -> dict[str, Any]:
    """The fields of a runner's request that say how to choose tokens."""
    options = question.options
    limit = _LIMIT_CONTEXTS * loaded.launch.context
    wanted = options.num_predict
    return {
        "stream": True,
        "cache_prompt": True,
        "n_predict": wanted if 0 < wanted <= limit else limit,
        "n_keep": options.num_keep,
        "temperature": options.temperature,
        "top_k": options.top_k,
        "top_p": options.top_p,
        "min_p": options.min_p,
        "typical_p": options.typical_p,
        "stop": list(options.stop),
        "repeat_penalty": options.repeat_penalty,
        "repeat_last_n": options.repeat_last_n,
        "frequency_penalty": options.frequency_penalty,
        "presence_penalty": options.presence_penalty,
        "seed": options.seed,
    }


def sendable(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """The body. Raises `EngineInvalid` as Go does for a number beyond a float32 among `sampling`'s:
    it became infinite, and JSON has no word for that."""
    for value in body.values():
        if isinstance(value, float) and not math.isfinite(float32(value)):
            sign = "+" if value > 0 else "-"
            raise EngineInvalid(
                f"failed to marshal completion request: json: unsupported value: {sign}Inf"
            )
    return body


def schema_of(question: Question) -> Mapping[str, Any] | str | None:
    """A JSON schema, "json" for any object, or None.

    Raises `EngineInvalid` for other things, and `EngineRefused` for a schema that Ollama's
    llama.cpp refuses.
    """
    wanted = question.format
    if wanted in (None, ""):
        return None
    if isinstance(wanted, dict):
        fault = conversion_fault(wanted)
        if fault is not None:
            raise EngineRefused(400, _as_llama_says(fault))
        return wanted
    if wanted == "json":
        return "json"
    written = json.dumps(wanted, ensure_ascii=False, separators=(",", ":"))
    raise EngineInvalid(
        f'invalid format: {quoted(written)}; expected "json" or a valid JSON Schema object'
    )


def _as_llama_says(fault: str) -> str:
    """The body of llama.cpp's answer, which Ollama passes on as the text of its own."""
    message = f"Field 'json_schema': \"json_schema\": {fault}"
    error = {"code": 400, "message": message, "type": "invalid_request_error"}
    return json.dumps({"error": error}, ensure_ascii=False, separators=(",", ":"))


def chat_body(messages: Sequence[Message], question: Question) -> dict[str, Any]:
    """What a runner's chat template is given: messages, tools, and whether to think.

    As in Ollama, messages in a row that one role has said are one, but for what tools say.
    """
    body: dict[str, Any] = {"messages": [_message(message) for message in _merged(messages)]}
    if question.tools:
        body["tools"] = [_tool(tool) for tool in question.tools]
    if question.think is not None:
        thinking: dict[str, Any] = {"enable_thinking": bool(question.think)}
        if isinstance(question.think, str):
            thinking["reasoning_effort"] = question.think
        body["chat_template_kwargs"] = thinking
    return body


async def rendered(
    loaded: Loaded, messages: Sequence[Message], question: Question, **values: str
) -> str:
    """The prompt that the model's chat template makes; `values` are more variables for it."""
    body = chat_body(messages, question)
    if values:
        body["chat_template_kwargs"] = body.get("chat_template_kwargs", {}) | values
    answer = await loaded.process.llama.ask("/apply-template", body)
    return str(answer["prompt"])


async def tokens(loaded: Loaded, text: str, *, special: bool = False) -> list[int]:
    """The token ids of a text; `special` adds what the model puts around every input."""
    body = {"content": text, "add_special": special}
    answer = await loaded.process.llama.ask("/tokenize", body)
    return list(answer["tokens"])


async def text_of(loaded: Loaded, ids: Sequence[int]) -> str:
    """The text of token ids. Raises `EngineRefused` for an id that the model doesn't have."""
    try:
        answer = await loaded.process.llama.ask("/detokenize", {"tokens": list(ids)})
    except EngineRefused as error:
        raise EngineRefused(500, f"detokenize error: {error}") from None
    return str(answer["content"])


async def fitting(loaded: Loaded, messages: Sequence[Message], question: Question) -> list[Message]:
    """The messages without as many of the oldest as it takes to fit into the context.

    System messages stay, and so does the last message, however long it is.
    """
    kept = list(messages)
    if not question.truncate:
        return kept
    for first in range(len(messages)):
        kept = [m for m in messages[:first] if m.role == "system"] + list(messages[first:])
        if first == len(messages) - 1:
            break
        prompt = await rendered(loaded, kept, question)
        if len(await tokens(loaded, prompt)) <= loaded.launch.context:
            break
    return kept


async def shortened(loaded: Loaded, prompt: str, question: Question) -> str | list[int]:
    """The prompt, or where it exceeds the context, the ids of its beginning and its end.

    As many as one shift of the context would leave: `num_keep` tokens, and the newest half of the
    rest. Raises `EngineRefused` (400) if the model was loaded without shifting.
    """
    context = loaded.launch.context
    if not question.truncate or len(prompt) < context:
        return prompt
    ids = await tokens(loaded, prompt, special=True)
    if len(ids) < context:
        return prompt
    if not loaded.launch.shift:
        raise EngineRefused(400, TOO_LONG)
    asked = question.options.num_keep
    keep = min(len(ids) if asked < 0 else asked + _adds_bos(loaded), context - 1)
    room = context - max((context - keep) // 2, 1)
    return ids[:keep] + ids[len(ids) - (room - keep) :]


def base64_of(image: ImageData) -> str:
    """An image as the runner wants it, whichever of the two forms it was sent in."""
    return image if isinstance(image, str) else base64.b64encode(bytes(image)).decode()


def _adds_bos(loaded: Loaded) -> bool:
    return bool(loaded.model.facts.keys.get("tokenizer.ggml.add_bos_token", False))


def _merged(messages: Sequence[Message]) -> list[Message]:
    merged: list[Message] = []
    for message in messages:
        if merged and merged[-1].role == message.role != "tool":
            content = f"{merged[-1].content}\n\n{message.content}"
            merged[-1] = merged[-1].model_copy(update={"content": content})
        else:
            merged.append(message)
    return merged


def _tool(tool: Tool) -> dict[str, Any]:
    """A tool with the type and the name that llama.cpp insists on; Ollama takes it without."""
    given = tool.model_dump(by_alias=True, exclude_unset=True)
    function = {"name": ""} | given.get("function", {})
    return given | {"type": "function", "function": function}


def _message(message: Message) -> dict[str, Any]:
    """A message as llama.cpp's OpenAI dialect has it; a call's arguments are JSON in a string."""
    converted: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.thinking:
        converted["reasoning_content"] = message.thinking
    if message.tool_call_id:
        converted["tool_call_id"] = message.tool_call_id
    if message.tool_name:
        converted["name"] = message.tool_name
    if message.tool_calls:
        converted["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {
                    "name": call.function.name,
                    "arguments": json.dumps(call.function.arguments, ensure_ascii=False),
                },
            }
            for call in message.tool_calls
        ]
    return converted
