#!/usr/bin/env python3
"""A Fault injector: a fake network before a real engine, which it starts and passes everything to.

Run as `fault_injector.py serve` with the environment of an Ollama. The file `fault` in
`FAULT_SCRATCH` names what befalls the calls that a model computes, from the next bytes on:
`hang` (nothing comes any more), `drop` (the connection goes before a byte), `truncate` (after one
line and a half), `garble` (the second line is noise), `die` (this process is killed after a line).
A fault befalls only the process that the file `victim` names.
"""

import http.client
import os
import signal
import socket
import subprocess
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

SCRATCH = Path(os.environ.get("FAULT_SCRATCH", "/nonexistent"))
ENGINE = ["-m", "serve.embedded", "--config", "{}", "--port"]
COMPUTED = ("/api/generate", "/api/chat", "/api/embed")


def fault() -> str:
    victim = SCRATCH / "victim"
    is_hit = victim.exists() and victim.read_text() == str(os.getpid())
    return (SCRATCH / "fault").read_text() if is_hit else ""


class Proxy(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    engine = 0

    def do_GET(self) -> None:
        self._pass_on()

    def do_POST(self) -> None:
        self._pass_on()

    def do_DELETE(self) -> None:
        self._pass_on()

    def _pass_on(self) -> None:
        self.close_connection = True
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        is_computed = self.path in COMPUTED
        if is_computed and fault() == "drop":
            return
        while is_computed and fault() == "hang":
            time.sleep(0.02)
        connection = http.client.HTTPConnection("127.0.0.1", self.engine)
        try:
            headers = {"Content-Type": "application/json", "Connection": "close"}
            connection.request(self.command, self.path, body or None, headers)
            answer = connection.getresponse()
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.headers.get("Content-Type", ""))
            self.send_header("Transfer-Encoding", "chunked")
            self.send_header("Connection", "close")
            self.end_headers()
            self._lines(answer, is_computed)
        except OSError:
            return
        finally:
            connection.close()

    def _lines(self, answer: http.client.HTTPResponse, is_computed: bool) -> None:  # noqa: FBT001
        for number, line in enumerate(answer):
            what = fault() if is_computed and number else ""
            while what == "hang":
                time.sleep(0.02)
                what = fault()
            if what == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            if what == "truncate":
                self._chunk(line[: len(line) // 2])
                return
            self._chunk(b"\xff\x00 noise\n" if what == "garble" and number == 1 else line)
        self.wfile.write(b"0\r\n\r\n")

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))
        self.wfile.flush()

    def log_message(self, *args: object) -> None:
        """Silent."""


def main() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        Proxy.engine = probe.getsockname()[1]
    python = os.environ["FAULT_PYTHON"]
    subprocess.Popen([python, *ENGINE, str(Proxy.engine)])
    while True:
        try:
            socket.create_connection(("127.0.0.1", Proxy.engine)).close()
            break
        except OSError:
            time.sleep(0.05)
    host, _, port = os.environ["OLLAMA_HOST"].partition(":")
    server = ThreadingHTTPServer((host, int(port)), Proxy)
    server.daemon_threads = True
    server.serve_forever()


if __name__ == "__main__":
    main()
