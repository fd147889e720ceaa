"""A fake registry of models: real manifests and real GGUF bytes over HTTP, and faults on request.

As Ollama's, it sends whoever asks for a blob to another host name.
"""

import contextlib
import hashlib
import json
import socket
import threading
from collections.abc import Generator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl

from tests.embedded.weights import smollm2

_MODEL = "/v2/library/smollm2"


class FakeRegistry(ThreadingHTTPServer):
    """`library/smollm2:135m`. `cut_after` bytes of a blob, it hangs up; once. `garbled`: blobs are
    of other bytes than their digest says. `ranges` are those that were asked for.

    Uploads are parts that name the next place; with `is_sending_on`, each goes to another host
    name; `uploads_refused` is what it says instead. `drop_parts`: it hangs up on that many before
    they are whole. `given`: manifests by name.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.cut_after = 0
        self.garbled = False
        self.ranges: list[str] = []
        self.is_sending_on = False
        self.drop_parts = 0
        self.uploads_refused = b""
        self.uploads: dict[str, bytes] = {}
        self.given: dict[str, bytes] = {}
        self.blobs: dict[str, bytes] = {}
        config = b'{"model_format":"gguf","model_family":"llama"}'
        stop = b'{"stop":["<|im_start|>","<|im_end|>"]}'
        kinds = (("model", smollm2().read_bytes()), ("params", stop))
        layers = [self._layer(f"application/vnd.ollama.image.{kind}", data) for kind, data in kinds]
        docker = "application/vnd.docker.container.image.v1+json"
        manifest = {"schemaVersion": 2, "config": self._layer(docker, config), "layers": layers}
        self.manifest = json.dumps(manifest).encode()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"

    @property
    def name(self) -> str:
        return f"http://{self.host}/library/smollm2:135m"

    def tag(self, model: str, tag: str) -> None:
        """The same model under another name of its library."""
        self.given[f"/v2/library/{model}/manifests/{tag}"] = self.manifest

    def _layer(self, kind: str, data: bytes) -> dict[str, object]:
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        self.blobs[digest] = data
        return {"mediaType": kind, "digest": digest, "size": len(data)}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FakeRegistry

    def handle_one_request(self) -> None:
        if self.connection.recv(1, socket.MSG_PEEK) == b"\x16":  # the start of TLS
            self.close_connection = True
            return
        super().handle_one_request()

    def do_GET(self) -> None:
        digest = self.path.rpartition("/")[2]
        if self.path == f"{_MODEL}/manifests/135m":
            self._send(200, self.server.manifest)
        elif self.path in self.server.given:
            self._send(200, self.server.given[self.path])
        elif digest not in self.server.blobs:
            self._send(404, b"{}")
        elif self.headers["Host"].startswith("127.0.0.1"):
            url = f"http://localhost:{self.server.server_address[1]}{self.path}"
            self._send(307, b"", Location=url)
        else:
            self._blob(self.server.blobs[digest])

    def do_HEAD(self) -> None:
        found = self.server.blobs.get(self.path.rpartition("/")[2])
        self._send(404 if found is None else 200, found or b"")

    def do_POST(self) -> None:
        if self.server.uploads_refused:
            self._send(403, self.server.uploads_refused)
            return
        place = f"{self.path}{len(self.server.uploads)}"
        self.server.uploads[place] = b""
        self._send(202, b"", Location=place)

    def do_PATCH(self) -> None:
        size = int(self.headers["Content-Length"])
        if self.server.is_sending_on:
            self.rfile.read(size)
            url = f"http://localhost:{self.server.server_address[1]}{self.path}"
            self._send(307, b"", **{"Location": url, "Docker-Upload-Location": self.path})
            return
        self._part(size)

    def do_PUT(self) -> None:
        size = int(self.headers.get("Content-Length", 0))
        place, _, query = self.path.partition("?")
        digest = dict(parse_qsl(query)).get("digest")
        if "/manifests/" in place:
            self.server.given[place] = self.rfile.read(size)
            self._send(201, b"")
        elif digest is None:
            self._part(size)
        else:
            data = self.server.uploads.pop(place)
            is_right = f"sha256:{hashlib.sha256(data).hexdigest()}" == digest
            if is_right:
                self.server.blobs[digest] = data
            self._send(201 if is_right else 400, b"" if is_right else b"digest invalid")

    def _part(self, size: int) -> None:
        if self.server.drop_parts:
            self.server.drop_parts -= 1
            self.rfile.read(min(size, 1000))
            self.close_connection = True
            return
        self.server.uploads[self.path] += self.rfile.read(size)
        self._send(202, b"", Location=self.path)

    def _blob(self, data: bytes) -> None:
        asked = self.headers.get("Range", "bytes=0-")
        self.server.ranges.append(asked)
        first, _, last = asked.removeprefix("bytes=").partition("-")
        data = data[int(first) : int(last) + 1 if last else None]
        if self.server.garbled:
            data = bytes(len(data))
        self._send(206, data)

    def _send(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        cut = self.server.cut_after
        if 0 < cut < len(body):
            self.server.cut_after, self.close_connection = 0, True
            body = body[:cut]
        with contextlib.suppress(ConnectionError):
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def serving() -> Generator[FakeRegistry, None, None]:
    registry = FakeRegistry()
    thread = threading.Thread(target=registry.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield registry
    finally:
        registry.shutdown()
        registry.server_close()
        thread.join()
