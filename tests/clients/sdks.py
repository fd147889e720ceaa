"""The libraries of OpenAI and Anthropic."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import anthropic
import openai

from tests.clients.asked import CALL_ID, PARAMETERS, WEATHER, Answer, Ask, Client

_CALL = {"name": "get_weather", "arguments": '{"city": "Paris"}'}


class OpenAI(Client):
    name = "openai"
    raises = ("NotFoundError", "BadRequestError")

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.client = openai.OpenAI(base_url=url + "/v1", api_key="unused", max_retries=0)

    def chat(self, ask: Ask) -> Answer:
        raw = self.client.chat.completions.with_raw_response.create(**_chat(ask))
        given: Any = raw.parse()
        return _chatted(list(given) if ask.stream else [given], _status(raw))

    async def chat_async(self, ask: Ask) -> Answer:
        base, key = self.url + "/v1", "unused"
        async with openai.AsyncOpenAI(base_url=base, api_key=key, max_retries=0) as client:
            given: Any = await client.chat.completions.create(**_chat(ask))
            return _chatted([part async for part in given] if ask.stream else [given], "")

    def complete(self, ask: Ask) -> Answer:
        asked: dict[str, Any] = {"model": ask.model, "prompt": ask.prompt, "temperature": 0}
        raw = self.client.completions.with_raw_response.create(
            **asked, max_tokens=ask.tokens, stream=ask.stream
        )
        given: Any = raw.parse()
        parts = list(given) if ask.stream else [given]
        texts = [choice.text for part in parts for choice in part.choices if choice.text]
        tokens = None if ask.stream else parts[0].usage.completion_tokens
        return Answer("".join(texts), "", [], len(texts), tokens, _status(raw))

    def respond(self, ask: Ask) -> Answer:
        raw = self.client.responses.with_raw_response.create(**_respond(ask))
        final: Any = raw.parse()
        parts = 1
        if ask.stream:
            events = list(final)
            assert [event.sequence_number for event in events] == list(range(len(events)))
            assert events[-1].type == "response.completed"
            final = events[-1].response
            parts = sum(event.type == "response.output_text.delta" for event in events)
        calls = [
            (o.name, json.loads(o.arguments)) for o in final.output if o.type == "function_call"
        ]
        thoughts = [part.text for o in final.output if o.type == "reasoning" for part in o.summary]
        used, status = final.usage.output_tokens, _status(raw)
        return Answer(final.output_text, "".join(thoughts), calls, parts, used, status)

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        found = self.client.embeddings.create(model="all-minilm", input=list(texts))
        return [row.embedding for row in found.data]

    def models(self) -> list[str]:
        return [model.id for model in self.client.models.list()]

    def leave(self, ask: Ask) -> None:
        with self.client.chat.completions.create(**_chat(ask) | {"stream": True}) as stream:
            next(iter(stream))


def _chat(ask: Ask) -> dict[str, Any]:
    told: list[dict[str, Any]] = [{"role": "user", "content": ask.prompt}]
    if ask.result:
        call = {"id": CALL_ID, "type": "function", "function": _CALL}
        told.append({"role": "assistant", "tool_calls": [call]})
        told.append({"role": "tool", "tool_call_id": CALL_ID, "content": ask.result})
    more: dict[str, Any] = {"tools": [WEATHER]} if ask.tools else {}
    if ask.stream:
        more |= {"stream": True, "stream_options": {"include_usage": True}}
    if ask.think:
        more["reasoning_effort"] = "medium"
    if ask.schema:
        schema = {"name": "city", "schema": ask.schema}
        more["response_format"] = {"type": "json_schema", "json_schema": schema}
    asked = {"model": ask.model, "messages": told, "temperature": 0, "max_tokens": ask.tokens}
    return asked | more


def _chatted(parts: list[Any], cache_status: str) -> Answer:
    choices = [choice for part in parts for choice in part.choices]
    said = [getattr(choice, "delta", None) or choice.message for choice in choices]
    return Answer(
        "".join(one.content or "" for one in said),
        "".join(getattr(one, "reasoning", None) or "" for one in said),
        [
            (call.function.name, json.loads(call.function.arguments))
            for one in said
            for call in one.tool_calls or ()
        ],
        sum(bool(one.content or getattr(one, "reasoning", None)) for one in said),
        parts[-1].usage.completion_tokens,
        cache_status,
    )


def _respond(ask: Ask) -> dict[str, Any]:
    told: list[dict[str, Any]] = [{"role": "user", "content": ask.prompt}]
    if ask.result:
        told.append({"type": "function_call", "call_id": CALL_ID, **_CALL})
        told.append({"type": "function_call_output", "call_id": CALL_ID, "output": ask.result})
    asked = {"model": ask.model, "input": told, "temperature": 0, "stream": ask.stream}
    if ask.tools:
        asked["tools"] = [{"type": "function", **WEATHER["function"]}]  # type: ignore[dict-item]
    if ask.think:
        asked["reasoning"] = {"effort": "medium"}
    if ask.schema:
        asked["text"] = {
            "format": {"type": "json_schema", "name": "city", "schema": ask.schema, "strict": True}
        }
    return asked | {"max_output_tokens": ask.tokens}


def _status(raw: Any) -> str:
    return str(raw.headers.get("cache-status", ""))


class Anthropic(Client):
    name = "anthropic"
    raises = ("NotFoundError", "BadRequestError")
    ignores_schemas = True

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.client = anthropic.Anthropic(base_url=url, api_key="unused", max_retries=0)

    def chat(self, ask: Ask) -> Answer:
        raw = self.client.messages.with_raw_response.create(**_messages(ask))
        given: Any = raw.parse()
        if not ask.stream:
            return _message(given, 1, _status(raw))
        events = list(given)
        assert (events[0].type, events[-1].type) == ("message_start", "message_stop")
        parts = sum(event.type == "content_block_delta" for event in events)
        with self.client.messages.stream(**_messages(replace(ask, stream=False))) as stream:
            return _message(stream.get_final_message(), parts, _status(raw))

    async def chat_async(self, ask: Ask) -> Answer:
        base = self.url
        async with anthropic.AsyncAnthropic(base_url=base, api_key="x", max_retries=0) as client:
            if not ask.stream:
                return _message(await client.messages.create(**_messages(ask)), 1, "")
            async with client.messages.stream(**_messages(replace(ask, stream=False))) as stream:
                events = [event async for event in stream]
                texts = [event.text for event in events if event.type == "text"]
                whole = await stream.get_final_message()
                assert "".join(texts) == _message(whole, 1, "").text
                return _message(whole, len(texts), "")

    def models(self) -> list[str]:
        return [model.id for model in self.client.models.list()]

    def leave(self, ask: Ask) -> None:
        with self.client.messages.create(**_messages(ask) | {"stream": True}) as stream:
            next(iter(stream))


def _messages(ask: Ask) -> dict[str, Any]:
    told: list[dict[str, Any]] = [{"role": "user", "content": ask.prompt}]
    if ask.result:
        call = {
            "type": "tool_use",
            "id": CALL_ID,
            "name": "get_weather",
            "input": {"city": "Paris"},
        }
        result = {"type": "tool_result", "tool_use_id": CALL_ID, "content": ask.result}
        told.append({"role": "assistant", "content": [call | {"input": {"city": "Paris"}}]})
        told.append({"role": "user", "content": [result]})
    asked: dict[str, Any] = {"model": ask.model, "messages": told, "max_tokens": ask.tokens}
    if ask.tools:
        description = "Weather of a city"
        asked["tools"] = [
            {"name": "get_weather", "description": description, "input_schema": PARAMETERS}
        ]
    if ask.think:
        asked["thinking"] = {"type": "enabled", "budget_tokens": 1024}
    if ask.schema:
        asked["output_config"] = {"format": {"type": "json_schema", "schema": ask.schema}}
    if ask.stream:
        asked["stream"] = True
    return asked | {"extra_body": {"temperature": 0}}


def _message(message: Any, parts: int, cache_status: str) -> Answer:
    return Answer(
        "".join(block.text for block in message.content if block.type == "text"),
        "".join(block.thinking for block in message.content if block.type == "thinking"),
        [(b.name, dict(b.input)) for b in message.content if b.type == "tool_use"],
        parts,
        message.usage.output_tokens,
        cache_status,
    )
