"""A server that speaks enough of Ollama's API to be measured, and counts what it is asked."""

import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class FakeOllama(http.server.ThreadingHTTPServer):
    """Streams three tokens for every prompt. `verdict` is what its cache claims to say."""

    daemon_threads = True

    def __init__(self, verdict: str = "") -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.verdict = verdict
        self.prompts: list[str] = []
        self.keys: set[str | None] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FakeOllama

    def do_GET(self) -> None:
        self._whole({"models": [{"name": "all-minilm:latest"}, {"name": "smollm2:135m"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.keys.add(self.headers["authorization"])
        if self.path == "/api/show":
            kind = "embedding" if "minilm" in body["model"] else "completion"
            self._whole({"capabilities": [kind]})
            return
        self.server.prompts.append(body["prompt"])
        self.send_response(200)
        self.send_header("transfer-encoding", "chunked")
        if self.server.verdict:
            self.send_header("x-rayllama-cache", self.server.verdict)
        self.end_headers()
        for line in ({"response": "a", "done": False}, {"done": True, "eval_count": 3}):
            data = json.dumps(line).encode() + b"\n"
            self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.write(b"0\r\n\r\n")

    def _whole(self, value: object) -> None:
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Silent."""


@contextmanager
def serving(verdict: str = "") -> Iterator[FakeOllama]:
    with FakeOllama(verdict) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
