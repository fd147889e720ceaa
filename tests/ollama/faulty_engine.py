#!/usr/bin/env python3
"""A Faulty engine: speaks a little of Ollama's API, and fails as told where a real one would not.

Run as `faulty_engine.py serve` with the environment of a real Ollama. `FAULT` in the environment
says how the process fails, `fault` in a request's body how that answer does.
Standard library only: it is started by whatever Python is first on PATH.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

VERSION = "0.0.1"
MODEL = "faulty:latest"
FAULTS = set(filter(None, os.environ.get("FAULT", "").split(",")))
SCRATCH = Path(os.environ.get("FAULT_SCRATCH", "/nonexistent"))


def compact(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def line(text: str, *, done: bool = False) -> bytes:
    return compact({"model": MODEL, "response": text, "done": done}) + b"\n"


def pulling(done: int) -> dict[str, Any]:
    digest = "sha256:" + 64 * "a"
    return {"status": "pulling aaaa", "digest": digest, "total": 20, "completed": done}


def plain(_: dict[str, Any]) -> Iterator[bytes]:
    yield line("a")


def torn(_: dict[str, Any]) -> Iterator[bytes]:
    """One line over three chunks, then two lines in one."""
    whole = line("first")
    yield whole[:7]
    yield whole[7:20]
    yield whole[20:]
    yield line("second") + line("third")


def cut(_: dict[str, Any]) -> Iterator[bytes]:
    """The connection goes in the middle of a line."""
    yield line("a") + b'{"model":"half a li'
    raise ConnectionAbortedError


def stall(_: dict[str, Any]) -> Iterator[bytes]:
    """Nothing comes until the test says so."""
    yield line("a")
    (SCRATCH / "stalling").touch()
    while not (SCRATCH / "go").exists():
        time.sleep(0.01)


def die(_: dict[str, Any]) -> Iterator[bytes]:
    yield line("a")
    os.kill(os.getpid(), signal.SIGKILL)


def endless(_: dict[str, Any]) -> Iterator[bytes]:
    while True:
        yield line("more")
        time.sleep(0.005)


def huge(request: dict[str, Any]) -> Iterator[bytes]:
    yield line("x" * int(request["size"]))


OPENINGS: dict[str, Callable[[dict[str, Any]], Iterator[bytes]]] = {
    "torn": torn,
    "cut": cut,
    "stall": stall,
    "die": die,
    "endless": endless,
    "huge": huge,
}


class Faulty(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if "mute" in FAULTS:
            time.sleep(1000)
        if self.path == "/api/version":
            self._json({"version": VERSION})
        elif self.path == "/api/tags":
            while (SCRATCH / "tags_hang").exists():
                time.sleep(0.01)
            digest_file = SCRATCH / "digest"
            digest = digest_file.read_text() if digest_file.exists() else "d1"
            count = SCRATCH / "tags_calls"
            if SCRATCH.exists():
                count.write_text(str(int(count.read_text() or 0) + 1 if count.exists() else 1))
            rows = [{"name": MODEL, "model": MODEL, "digest": digest}]
            pulled = SCRATCH / "pulled"
            names = pulled.read_text().splitlines() if pulled.exists() else []
            rows += [{"name": name, "model": name, "digest": "d9"} for name in names]
            self._json({"models": rows})
        elif self.path == "/api/ps" and (SCRATCH / "ps").exists():
            self._json({"models": json.loads((SCRATCH / "ps").read_text())})
        elif self.path == "/headers":
            self._json(dict(self.headers.items()))
        else:
            self._json({"error": "no such path"}, 404)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == "/echo":
            self._bytes(body, 200, "application/octet-stream")
            return
        request = json.loads(body)
        if self.path == "/api/show" and "/" in request["model"]:
            self._show()
            return
        if self.path != "/api/show":
            self._hang()
        if "." in (request.get("prompt"), request.get("input")):
            self._canary(request)
        elif self.path in ("/api/pull", "/api/copy"):
            self._manage(request)
        else:
            self._generate(request)

    def _generate(self, request: dict[str, Any]) -> None:
        fault = request.get("fault", "")
        if not request.get("prompt"):
            self._load(request)
        elif fault == "refuse":
            self._json({"error": "model 'x' not found"}, 404)
        elif fault == "die_before":
            os.kill(os.getpid(), signal.SIGKILL)
        else:
            self._stream(request, fault)

    def _hang(self) -> None:
        """While the file `wedged` names this process, or all: nothing that a model computes."""
        wedged = SCRATCH / "wedged"
        while wedged.exists() and wedged.read_text() in ("all", str(os.getpid())):
            time.sleep(0.01)

    def _canary(self, request: dict[str, Any]) -> None:
        with (SCRATCH / "canaries").open("a") as file:
            file.write(json.dumps([self.path, request]) + "\n")
        if "canary_fails" in FAULTS:
            self._json({"error": "CUDA error"}, 500)
        elif self.path == "/api/generate" and "embeds_only" in FAULTS:
            self._json({"error": '"faulty" does not support generate'}, 400)
        else:
            self._json({"done": True})

    def _show(self) -> None:
        while (SCRATCH / "show_hang").exists():
            time.sleep(0.01)
        template = SCRATCH / "template"
        text = template.read_text() if template.exists() else "{{ .System }}{{ .Prompt }}"
        shown = {"template": text, "modelfile": "FROM x\n", "model_info": {}, "details": {}}
        if "show_refused" in FAULTS:
            self._json({"error": "model 'x' not found"}, 404)
        else:
            self._json(shown)

    def _load(self, request: dict[str, Any]) -> None:
        if "load_hangs" in FAULTS:
            time.sleep(1000)
        if "load_fails" in FAULTS:
            sys.stderr.write("llama_load: no kernel image for this device\n")
            self._json({"error": "llama-server process has terminated"}, 500)
            return
        if self.path == "/api/generate" and "embeds_only" in FAULTS:
            self._json({"error": '"faulty" does not support generate'}, 400)
            return
        if SCRATCH.exists():
            with (SCRATCH / "loads").open("a") as file:
                file.write(json.dumps([self.path, request]) + "\n")
        if self.path == "/api/embed":
            self._json({"model": MODEL, "embeddings": []})
        else:
            self._json({"model": MODEL, "response": "", "done": True, "done_reason": "load"})

    def _stream(self, request: dict[str, Any], fault: str) -> None:
        self._send_chunks(self._parts(request, fault))

    def _pull(self, request: dict[str, Any]) -> Iterator[bytes]:
        """Twenty bytes, one by one; how often it was asked is in `pulls`."""
        with (SCRATCH / "pulls").open("a") as file:
            file.write(request["model"] + "\n")
        yield compact({"status": "pulling manifest"}) + b"\n"
        if "pull_fails" in FAULTS and not (SCRATCH / "registry_is_back").exists():
            yield compact({"error": "pull model manifest: file does not exist"}) + b"\n"
            return
        if "pull_ends" in FAULTS:
            return
        for done in range(1, 21):
            while done == 10 and "pull_stalls" in FAULTS:
                yield compact(pulling(9)) + b"\n"
                time.sleep(0.02)
            yield compact(pulling(done)) + b"\n"
            time.sleep(0.05)
        with (SCRATCH / "pulled").open("a") as file:
            file.write(request["model"] + "\n")
        yield compact({"status": "success"}) + b"\n"

    def _manage(self, request: dict[str, Any]) -> None:
        if self.path == "/api/copy":
            self._copy(request)
        elif "pull_refused" in FAULTS:
            self._bytes(b"<html>go away</html>", 403, "text/html")
        else:
            self._send_chunks(self._pull(request))

    def _copy(self, request: dict[str, Any]) -> None:
        with (SCRATCH / "pulled").open("a") as file:
            file.write(request["destination"] + "\n")
        if "copy_fails" in FAULTS:
            self._json({"error": "disk quota exceeded"}, 500)
        else:
            self._bytes(b"", 200, "")

    def do_DELETE(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        with (SCRATCH / "deleted").open("a") as file:
            file.write(json.loads(body)["model"] + "\n")
        self._bytes(b"", 200, "")

    def _send_chunks(self, parts: Iterator[bytes]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/x-ndjson")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            for part in parts:
                self.wfile.write(b"%x\r\n%b\r\n" % (len(part), part))
                self.wfile.flush()
            self.wfile.write(b"0\r\n\r\n")
            self._note("answered")
        except OSError:
            self._note("client_left")
            self.close_connection = True

    def _parts(self, request: dict[str, Any], fault: str) -> Iterator[bytes]:
        """The chunks of an answer: a beginning, what the fault makes of it, an end."""
        yield from OPENINGS.get(fault, plain)(request)
        if fault == "error":
            yield b'{"error":"an error was encountered while running the model: unexpected EOF"}\n'
            return
        for number in range(int(request.get("lines", 1))):
            yield line(f"b{number}")
        if fault != "no_done":
            yield line("", done=True)

    def _note(self, name: str) -> None:
        if SCRATCH.exists():
            (SCRATCH / name).touch()

    def _json(self, value: object, status: int = 200) -> None:
        self._bytes(compact(value), status, "application/json; charset=utf-8")

    def _bytes(self, body: bytes, status: int, content_type: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Silent: what this engine writes is what a test expects to read."""


def main() -> None:
    if "ignore_term" in FAULTS:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if "runner" in FAULTS:  # a grandchild that nobody but the keeper will end
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
    if "exit" in FAULTS or (SCRATCH / "exit_now").exists():
        sys.exit("faulty: cuda error 42\nfaulty: giving up")
    if "port_taken_once" in FAULTS and not (SCRATCH / "tried").exists():
        (SCRATCH / "tried").touch()
        sys.exit("Error: listen tcp 127.0.0.1:1: bind: address already in use")
    if "gpu" in FAULTS:
        sys.stderr.write('level=INFO msg="inference compute" id=GPU-1 library=CUDA name=CUDA0\n')
    host, _, port = os.environ["OLLAMA_HOST"].partition(":")
    server = ThreadingHTTPServer((host, int(port)), Faulty)
    server.daemon_threads = True
    sys.stderr.write(f"faulty: listening on {port}\n")
    server.serve_forever()


if __name__ == "__main__":
    main()
