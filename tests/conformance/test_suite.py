"""`rayllama conformance`: a server that answers as Ollama, one that doesn't, and none."""

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from serve.cli import main
from serve.conformance import suite
from serve.conformance.permitted import EMBEDDED, OLLAMA
from tests.embedded.engines import EngineProcess, free_port


class FakePage(BaseHTTPRequestHandler):
    """Answers every GET and POST with a page."""

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        page = b"<html>It works!</html>"
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)

    do_POST = do_GET  # noqa: N815 - the names of http.server

    def log_message(self, *_: object) -> None:
        return None


@pytest.fixture
def page() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), FakePage) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.engine
def test_the_embedded_engine_conforms(
    recorded_engine: EngineProcess, capsys: pytest.CaptureFixture[str]
) -> None:
    assert suite.profile_of(recorded_engine.url) is EMBEDDED
    assert main(["conformance", recorded_engine.url, "--json"]) == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures["failed"] == 0
    assert figures["passed"] > 100
    assert figures["passed"] + figures["skipped"] == figures["cases"]
    assert figures["permitted_differences"] == len(figures["permitted"]) > 0


def test_a_page_is_no_ollama(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    report = suite.run(page, OLLAMA, write=True)
    assert len(report.failed) > 0.9 * report.cases
    assert report.passed + len(report.failed) == report.cases
    assert main(["conformance", page]) == 1
    assert "misc/" in capsys.readouterr().out


def test_nobody_there_is_refused_with_the_url(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["conformance", f"http://127.0.0.1:{free_port()}"]) == 2
    assert "nothing answers at http://127.0.0.1:" in capsys.readouterr().err
    assert main(["conformance", "localhost"]) == 2
    assert "is no http:// or https:// URL" in capsys.readouterr().err
