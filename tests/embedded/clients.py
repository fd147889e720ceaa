"""Clients that stream, and clients that leave."""

import json
import socket
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import httpx

COUNT = "Count: 1, 2, 3, 4, 5, 6, 7,"


def counting(tokens: int, **more: Any) -> dict[str, Any]:
    """A request whose answer goes on for as many tokens as asked for."""
    options = {"num_predict": tokens, "temperature": 0} | more.pop("options", {})
    return {"model": "smollm2:135m", "prompt": COUNT, "raw": True, "options": options} | more


async def lines(url: str, body: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
    """The lines of a streamed answer to /api/generate, as they come."""
    client = httpx.AsyncClient(trust_env=False, timeout=120)
    async with client, client.stream("POST", url + "/api/generate", json=body) as response:
        async for line in response.aiter_lines():
            yield json.loads(line)


def send(port: int, path: str, body: Mapping[str, Any]) -> socket.socket:
    """A connection with the request sent and nothing read, to be closed by the caller."""
    data = json.dumps(body).encode()
    connection = socket.create_connection(("127.0.0.1", port))
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n"
    connection.sendall(head.encode() + data)
    return connection
