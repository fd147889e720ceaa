"""Every file in `configs/` is valid: for our models, for the committed schema, for Ray Serve."""

import importlib
import json
import warnings
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from serve.cli import main, schema
from serve.cli.deployfile import (
    PROJECT,
    Application,
    DeployFile,
    HttpOptions,
    LoggingConfig,
    load,
    on_python_proxy,
    read,
    remarks,
)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Ray's own use of pydantic
    SERVE: Any = importlib.import_module("ray.serve.schema")
    CONSTANTS: Any = importlib.import_module("ray.serve._private.constants")
    TEMPLATES: Any = importlib.import_module("ray.serve._private.haproxy_templates")

CONFIGS = sorted((PROJECT / "configs").glob("*.yaml"))
SCHEMA = PROJECT / "configs" / "schema.json"

_LOG_TARGET = "RAY_SERVE_HAPROXY_LOG_TARGET"

each = pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)


def test_all_that_ship_are_here() -> None:
    assert [path.stem for path in CONFIGS] == ["chatbot", "gpu", "local", "ollama"]


def test_the_committed_schema_is_current() -> None:
    assert SCHEMA.read_text() == schema.as_json(), "run: make schema"


@each
def test_valid_for_the_schema(path: Path) -> None:
    jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text())).validate(read(path))


@each
def test_valid_for_our_models_and_without_remarks(path: Path) -> None:
    assert remarks(load(path)) == []


@each
def test_valid_for_serve(path: Path) -> None:
    config = SERVE.ServeDeploySchema.model_validate(read(path))
    assert config.controller_options is not None
    assert config.http_options.request_timeout_s is None


@each
def test_serve_knows_every_variable(path: Path) -> None:
    known = Path(CONSTANTS.__file__).read_text()
    assert [name for name in load(path).env if name not in known] == []


@each
def test_ten_thousand_connections(path: Path) -> None:
    file = load(path)
    assert int(file.env["RAY_SERVE_HAPROXY_MAXCONN"]) >= 10_000
    assert file.settings.ingress.max_connections >= 10_000


@each
def test_a_low_limit_of_open_files_stops_no_haproxy(path: Path) -> None:
    """The value lands in HAProxy's `global` section only while Serve's template writes it so."""
    template = TEMPLATES.HAPROXY_CONFIG_TEMPLATE
    line = "    log {{ config.log_target }} local0 info\n"
    head, found, _ = template.partition(line)
    assert found
    assert head.startswith("global\n")
    assert "\ndefaults" not in head
    assert template.count("config.log_target") == 1
    rendered = line.replace("{{ config.log_target }}", load(path).env[_LOG_TARGET])
    assert rendered.splitlines() == [
        "    log 127.0.0.1:514 local0 err",
        "    no strict-limits # local0 info",
    ]


@each
def test_listens_on_loopback_or_knows_its_callers(path: Path) -> None:
    file = load(path)
    assert file.is_loopback or file.settings.auth.keys


def test_only_the_cluster_listens_beyond_loopback() -> None:
    assert [path.stem for path in CONFIGS if not load(path).is_loopback] == ["gpu"]


def test_a_chatbot_is_cached() -> None:
    assert load(PROJECT / "configs/chatbot.yaml").settings.cache.policy == "always"


@pytest.mark.parametrize("name", ["local", "chatbot", "ollama"])
def test_a_machine_of_two_cores_without_gpu_runs_it(name: str) -> None:
    settings = load(PROJECT / f"configs/{name}.yaml").settings
    assert settings.inference.num_gpus == 0
    assert settings.inference.num_cpus == settings.ingress.num_cpus == 0


def test_our_models_know_all_that_serve_does() -> None:
    """A key that Serve learns shows here; what we leave out is left out knowingly."""
    assert _keys(SERVE.ServeDeploySchema) - _keys(DeployFile) == set()
    deprecated = {"host", "port"}
    assert _keys(SERVE.ServeApplicationSchema) - _keys(Application) == deprecated
    http = _keys(SERVE.HTTPOptionsSchema)
    without_tls = {key for key in http if not key.startswith("ssl_")}  # no TLS to Serve's HAProxy
    assert without_tls == _keys(HttpOptions)
    assert _keys(SERVE.LoggingConfig) == _keys(LoggingConfig)


def _keys(model: Any) -> set[str]:
    return set(model.model_fields)


@each
def test_the_copy_for_the_python_proxy_differs_in_two_variables(path: Path) -> None:
    before = read(path)
    after = DeployFile.model_validate(on_python_proxy(before))
    changed = {name for name, value in after.env.items() if load(path).env[name] != value}
    assert changed == {"RAY_SERVE_ENABLE_HA_PROXY", "RAY_SERVE_THROUGHPUT_OPTIMIZED"}
    assert after.settings == load(path).settings
    assert before == read(path)


def test_check_accepts_them_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", *map(str, CONFIGS)]) == 0
    assert capsys.readouterr().out.count(": valid") == len(CONFIGS)
