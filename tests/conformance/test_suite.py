"""`rayllama conformance`: a server that answers as Ollama, one that doesn't, and none."""

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from serve.cli import main
from serve.conformance import suite
from serve.conformance.permitted import EMBEDDED, OLLAMA, RAYLLAMA, RAYLLAMA_ON_OLLAMA, Profile
from serve.conformance.replay import cases
from serve.settings import Settings
from tests.conformance.conftest import TEMPLATES, models
from tests.embedded.engines import EngineProcess, free_port
from tests.stack import Stack


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


TEMPLATED = {name for name in TEMPLATES if name.startswith("smollm2-")}
"""What is created with Go templates, and can be configured with Jinja ones."""


@pytest.mark.engine
@pytest.mark.slow
def test_rayllama_conforms_where_models_may_be_changed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All is asked but for making the models that are configured."""
    configured = [model for model in models(tmp_path) if model["name"] in TEMPLATED]
    settings = Settings.model_validate(
        {
            "inference": {"num_gpus": 0, "slots": 2, "context_length": 2048, "keep_alive": "5m"},
            "embedded": {"threads": 1, "models": configured, "store": str(tmp_path / "store")},
            "cache": {"lookup_timeout_s": 5, "lease_s": 5},
        }
    )
    with Stack(settings) as stack:
        assert suite.profile_of(stack.url) is RAYLLAMA
        status = main(["conformance", stack.url, "--write", "--json"])
    *faults, last = capsys.readouterr().out.splitlines()
    assert (status, faults) == (0, [])
    figures = json.loads(last)
    assert figures["skipped"] == len(TEMPLATED)
    assert figures["passed"] + figures["skipped"] == figures["cases"]


@pytest.mark.parametrize(
    ("profile", "there", "write", "asked"),
    [
        (RAYLLAMA, True, True, {"show_tools", "tools_chat"}),
        (RAYLLAMA, True, False, {"show_tools", "tools_chat"}),
        (RAYLLAMA, False, True, set()),
        (RAYLLAMA, False, False, set()),
        (RAYLLAMA_ON_OLLAMA, False, True, {"create_tools", "show_tools", "tools_chat"}),
        (RAYLLAMA_ON_OLLAMA, False, False, set()),
    ],
)
def test_what_needs_a_go_template_is_asked_where_its_model_is(
    profile: Profile, *, there: bool, write: bool, asked: set[str]
) -> None:
    before = suite._Before({"smollm2-tools:latest"} if there else set(), set(), write=write)
    names = {"create_tools", "show_tools", "tools_chat"}
    capabilities = {case.id.removeprefix("capabilities/"): case for case in cases("capabilities")}
    left_out = {n for n in names if suite._left_out(capabilities[n], before, profile)}
    assert names - left_out == asked


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
