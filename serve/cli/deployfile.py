"""A Serve config file that deploys Rayllama: its shape, and the faults that it may have.

Ray Serve ignores most unknown keys of such a file in silence, so they are refused here, with the
nearest valid one. The application's own part, `args`, is `serve.settings.Settings`.
"""

import ipaddress
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError

from serve.errors import ConfigError
from serve.settings import Section, Settings, explain

PROJECT = Path(__file__).resolve().parents[2]
"""The checkout: the configs live beside the code."""

DEFAULT = PROJECT / "configs" / "local.yaml"


class HttpOptions(Section):
    """Where Serve's proxy listens. Frozen once Serve runs."""

    host: str = "0.0.0.0"  # noqa: S104 - Serve's own default, refused by `faults` without keys
    """The address. 127.0.0.1: this machine only."""

    port: Annotated[int, Field(ge=1, le=65535)] = 8000
    """The port. 11434 is where clients look for an Ollama."""

    root_path: str = ""
    """A path prefix that something in front strips."""

    request_timeout_s: None = None
    """Stays unset: Serve's own timeout cuts streams. See `ingress.deadline_s`."""

    keep_alive_timeout_s: Annotated[int, Field(ge=1)] = 90
    """Seconds that an idle connection is kept."""


class ControllerEnvironment(Section):
    """What Serve's controller, and all that it starts, find in their environment."""

    env_vars: dict[str, str] = Field(default_factory=dict)
    """Names and values; values in quotes."""


class ControllerOptions(Section):
    """Options of Serve's controller, honoured when Serve starts."""

    runtime_env: ControllerEnvironment = ControllerEnvironment()


class LoggingConfig(Section):
    """Serve's own log."""

    encoding: Literal["TEXT", "JSON"] = "TEXT"
    log_level: str | int = "INFO"
    logs_dir: str | None = None
    enable_access_log: bool = True
    """Serve's line for every request: it costs a third of the throughput."""
    additional_log_standard_attrs: list[str] = Field(default_factory=list)


class Application(Section):
    """Rayllama as Serve deploys it."""

    name: str = "default"
    route_prefix: str | None = "/"
    import_path: Literal["serve.app:build"]
    runtime_env: dict[str, Any] = Field(default_factory=dict)
    args: Settings = Settings()
    deployments: list[dict[str, Any]] = Field(default_factory=list)
    logging_config: LoggingConfig | None = None
    autoscaling_policy: dict[str, Any] | None = None
    external_scaler_enabled: bool = False


class DeployFile(Section):
    """A whole file, as `serve run` and `serve deploy` take it."""

    proxy_location: Literal["EveryNode", "HeadOnly", "Disabled"] = "EveryNode"
    http_options: HttpOptions = HttpOptions()
    grpc_options: dict[str, Any] = Field(default_factory=dict)
    controller_options: ControllerOptions = ControllerOptions()
    logging_config: LoggingConfig | None = None
    tracing_config: dict[str, Any] | None = None
    target_capacity: float | None = None
    applications: Annotated[list[Application], Field(min_length=1, max_length=1)]

    @property
    def settings(self) -> Settings:
        """Rayllama's own."""
        return self.applications[0].args

    @property
    def env(self) -> dict[str, str]:
        """The environment of Serve's processes."""
        return self.controller_options.runtime_env.env_vars

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can connect."""
        host = self.http_options.host
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost"

    @property
    def url(self) -> str:
        """Where it answers, seen from this machine."""
        host = self.http_options.host
        if host in ("0.0.0.0", "::"):  # noqa: S104 - comparing, not binding
            host = "127.0.0.1"
        return f"http://{host}:{self.http_options.port}"


def find(given: str | None) -> Path:
    """The file that is meant: as given, or of that name in the project. Raises `ConfigError`."""
    if given is None:
        return DEFAULT
    for path in (Path(given), PROJECT / given, PROJECT / "configs" / f"{given}.yaml"):
        if path.is_file():
            return path
    known = ", ".join(sorted(path.stem for path in DEFAULT.parent.glob("*.yaml")))
    raise ConfigError(f"{given}: no such file; configs that come along: {known}")


def read(path: Path) -> Any:
    """The file as plain data. Raises `ConfigError` where it isn't YAML."""
    try:
        return yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: {error}") from error


def load(path: Path) -> DeployFile:
    """The file, valid. Raises `ConfigError`, a line a fault: the file, the path in it, the fix."""
    data = read(path)
    try:
        file = DeployFile.model_validate(data)
    except ValidationError as error:
        raise ConfigError(_prefixed(path, explain(error))) from None
    if faults := "\n".join(_faults(file)):
        raise ConfigError(_prefixed(path, faults))
    return file


def _prefixed(path: Path, lines: str) -> str:
    # A fault of the whole file has no path in it, for which `explain` says "args".
    return "\n".join(f"{path}: {line.removeprefix('args: ')}" for line in lines.splitlines())


def _faults(file: DeployFile) -> list[str]:
    """What no single key shows."""
    found = []
    settings = file.settings
    if not file.is_loopback and not settings.auth.keys and not settings.ingress.allow_public:
        found.append(
            f"http_options.host: {file.http_options.host} lets everybody on the network in; give "
            "`auth.keys` (`rayllama key` makes one), or say `ingress.allow_public: true`, or "
            "listen on 127.0.0.1"
        )
    return found


def remarks(file: DeployFile) -> list[str]:
    """What is allowed but probably not meant."""
    found = []
    if not is_fast(file.env):
        found.append(
            "high-throughput mode is off: set RAY_SERVE_ENABLE_HA_PROXY and "
            'RAY_SERVE_THROUGHPUT_OPTIMIZED to "1" in controller_options, as in configs/local.yaml'
        )
    if file.logging_config is None or file.logging_config.enable_access_log:
        found.append("logging_config.enable_access_log: false would save a third of the CPU time")
    return found


def is_fast(env: dict[str, str]) -> bool:
    """Whether Serve runs HAProxy and its throughput mode in this environment."""
    return all(
        env.get(name) == "1"
        for name in ("RAY_SERVE_ENABLE_HA_PROXY", "RAY_SERVE_THROUGHPUT_OPTIMIZED")
    )


def on_python_proxy(data: dict[str, Any]) -> dict[str, Any]:
    """The same file for Serve's Python proxy, where there is no HAProxy to start."""
    options = data.get("controller_options") or {}
    runtime_env = options.get("runtime_env") or {}
    env = {
        **(runtime_env.get("env_vars") or {}),
        "RAY_SERVE_ENABLE_HA_PROXY": "0",
        # Throughput mode includes direct ingress, which has no proxy at all without HAProxy.
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "0",
    }
    return data | {"controller_options": options | {"runtime_env": runtime_env | {"env_vars": env}}}
