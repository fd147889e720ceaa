"""LangChain and LlamaIndex, by their integrations with Ollama."""

from collections.abc import Sequence
from typing import Any

import ollama
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_ollama import ChatOllama, OllamaEmbeddings, OllamaLLM
from llama_index.core.base.llms.types import (
    ChatMessage,
    MessageRole,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)
from llama_index.core.tools import FunctionTool
from llama_index.llms.ollama import Ollama

from tests.clients.asked import CALL_ID, WEATHER, Answer, Ask, Client


class LangChain(Client):
    name = "langchain-ollama"

    def chat(self, ask: Ask) -> Answer:
        model: Any = self._model(ask)
        if ask.tools:
            model = model.bind_tools([WEATHER])
        if ask.schema:
            # As `with_structured_output(method="json_schema")` binds it, which hides the text.
            model = model.bind(format=ask.schema)
        told = _langchain(ask)
        if not ask.stream:
            return self._answer(model.invoke(told), 1)
        parts = list(model.stream(told))
        whole = parts[0]
        for part in parts[1:]:
            whole += part
        return self._answer(whole, len(parts))

    def complete(self, ask: Ask) -> Answer:
        hooks = {"event_hooks": {"response": [self.watch]}}
        told: Any = ask.options
        model = OllamaLLM(model=ask.model, base_url=self.url, sync_client_kwargs=hooks, **told)
        if not ask.stream:
            return Answer(model.invoke(ask.prompt), parts=1, cache_status=self.seen[-1])
        parts = list(model.stream(ask.prompt))
        return Answer("".join(parts), parts=len(parts), cache_status=self.seen[-1])

    async def chat_async(self, ask: Ask) -> Answer:
        model = self._model(ask)
        self.seen.append("")
        if not ask.stream:
            return self._answer(await model.ainvoke(_langchain(ask)), 1)
        parts = [part async for part in model.astream(_langchain(ask))]
        whole: Any = parts[0]
        for part in parts[1:]:
            whole += part
        return self._answer(whole, len(parts))

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        return OllamaEmbeddings(model="all-minilm", base_url=self.url).embed_documents(list(texts))

    def leave(self, ask: Ask) -> None:
        parts: Any = self._model(ask).stream(_langchain(ask))
        next(parts)
        parts.close()

    def _model(self, ask: Ask) -> ChatOllama:
        hooks = {"event_hooks": {"response": [self.watch]}}
        told: dict[str, Any] = {"sync_client_kwargs": hooks, **ask.options}
        reasoning = True if ask.think else None
        return ChatOllama(model=ask.model, base_url=self.url, reasoning=reasoning, **told)

    def _answer(self, message: Any, parts: int) -> Answer:
        return Answer(
            message.content,
            message.additional_kwargs.get("reasoning_content", ""),
            [(call["name"], call["args"]) for call in message.tool_calls],
            parts,
            message.usage_metadata["output_tokens"],
            self.seen[-1],
        )


def _langchain(ask: Ask) -> list[BaseMessage]:
    told: list[BaseMessage] = [HumanMessage(ask.prompt)]
    if ask.result:
        call = {"name": "get_weather", "args": {"city": "Paris"}, "id": CALL_ID}
        told.append(AIMessage("", tool_calls=[call]))
        told.append(ToolMessage(ask.result, tool_call_id=CALL_ID))
    return told


def get_weather(city: str) -> str:
    """Weather of a city"""
    return f"rain in {city}"


class LlamaIndex(Client):
    name = "llama-index-llms-ollama"

    def chat(self, ask: Ask) -> Answer:
        model, told = self._model(ask), _llama_index(ask)
        more: dict[str, Any] = {"format": ask.schema} if ask.schema else {}
        if ask.tools:
            tool = FunctionTool.from_defaults(get_weather)
            more |= model._prepare_chat_with_tools([tool], chat_history=told)
            told = more.pop("messages")
        if not ask.stream:
            return self._answer([model.chat(told, **more)])
        return self._answer(list(model.stream_chat(told, **more)))

    def complete(self, ask: Ask) -> Answer:
        model = self._model(ask)
        if not ask.stream:
            return Answer(model.complete(ask.prompt).text, parts=1, cache_status=self.seen[-1])
        parts = list(model.stream_complete(ask.prompt))
        return Answer(parts[-1].text, parts=len(parts), cache_status=self.seen[-1])

    async def chat_async(self, ask: Ask) -> Answer:
        model, told = self._model(ask), _llama_index(ask)
        self.seen.append("")
        if not ask.stream:
            return self._answer([await model.achat(told)])
        return self._answer([part async for part in await model.astream_chat(told)])

    def leave(self, ask: Ask) -> None:
        parts = self._model(ask).stream_chat(_llama_index(ask))
        next(parts)
        parts.close()

    def _model(self, ask: Ask) -> Ollama:
        client = ollama.Client(host=self.url, event_hooks={"response": [self.watch]})
        return Ollama(
            model=ask.model,
            base_url=self.url,
            client=client,
            temperature=0,
            context_window=1024,
            thinking=True if ask.think else None,
            additional_kwargs={"num_predict": ask.tokens},
        )

    def _answer(self, parts: list[Any]) -> Answer:
        last = parts[-1]
        blocks = last.message.blocks
        calls = [
            (block.tool_name, _arguments(block))
            for block in blocks
            if isinstance(block, ToolCallBlock)
        ]
        return Answer(
            "".join(block.text for block in blocks if isinstance(block, TextBlock)),
            "".join(b.content or "" for b in blocks if isinstance(b, ThinkingBlock)),
            calls,
            len(parts),
            last.raw.get("eval_count"),
            self.seen[-1],
        )


def _arguments(block: ToolCallBlock) -> dict[str, Any]:
    told = block.tool_kwargs
    assert isinstance(told, dict)
    return told


def _llama_index(ask: Ask) -> list[ChatMessage]:
    told = [ChatMessage(role=MessageRole.USER, content=ask.prompt)]
    if ask.result:
        call = ToolCallBlock(tool_name="get_weather", tool_kwargs={"city": "Paris"})
        told.append(ChatMessage(role=MessageRole.ASSISTANT, blocks=[call]))
        told.append(ChatMessage(role=MessageRole.TOOL, content=ask.result))
    return told
