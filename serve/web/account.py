"""Accounts, the cloud and experiments: answered here, since no engine has any."""

from starlette.types import Receive, Scope, Send

from serve.web.body import read_body
from serve.web.dialects import JSON
from serve.web.reply import Reply
from serve.web.services import Services
from serve.wire.account import told


class Account:
    """One such route, `path` as the table has it."""

    def __init__(self, services: Services, path: str) -> None:
        self._services = services
        self._path = path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Say what an Ollama without cloud says."""
        headers = dict(scope["headers"])
        self._services.directory.identify(headers)
        body = await read_body(receive, headers, self._services.max_body_bytes)
        answer = told(scope["method"], self._path, body)
        await Reply(answer.status, JSON, answer.body).send(send)
