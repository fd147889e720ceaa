"""`configs/kuberay`: KubeRay takes it, Rayllama takes it, and it agrees with the code."""

import importlib
import os
import re
import shutil
import subprocess
import warnings
from pathlib import Path
from typing import Any

import pytest
import yaml

from serve.cli.deployfile import PROJECT, DeployFile, load, remarks
from tests.configs.rayservice import Container, RayService, WorkerGroup

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Ray's own use of pydantic
    RAY: Any = importlib.import_module("ray")
    SCRIPTS: Any = importlib.import_module("ray.scripts.scripts")
    CONSTANTS: Any = importlib.import_module("ray._private.ray_constants")
    SERVE: Any = importlib.import_module("ray.serve.schema")

HERE = PROJECT / "configs" / "kuberay"
IMAGE = (HERE / "Dockerfile").read_text()

MANIFESTS: dict[str, Any] = {
    manifest["kind"]: manifest
    for manifest in yaml.safe_load_all((HERE / "rayservice.yaml").read_text())
}


def patched(data: Any, name: str) -> RayService:
    """The RayService with a patch (JSON Patch, RFC 6902: only what ours use) applied."""
    whole = yaml.safe_load(yaml.safe_dump(data))
    for change in yaml.safe_load((HERE / "patches" / f"{name}.yaml").read_text()):
        *way, last = change["path"].strip("/").split("/")
        place = whole
        for key in way:
            place = place[int(key)] if isinstance(place, list) else place[key]
        key = int(last) if isinstance(place, list) else last
        if change["op"] == "replace":
            assert place[key]
        place[key] = change["value"]
    return RayService.model_validate(whole)


SERVICE = RayService.model_validate(MANIFESTS["RayService"])
CLUSTER = SERVICE.spec.rayClusterConfig
INGRESS, GPU = CLUSTER.workerGroupSpecs
RAY_CONTAINERS = [
    group.template.spec.containers[0]
    for group in (CLUSTER.headGroupSpec, *CLUSTER.workerGroupSpecs)
]


@pytest.fixture
def config(tmp_path: Path) -> DeployFile:
    """The config inside, by the way that `rayllama up` and `check` take."""
    path = tmp_path / "serve.yaml"
    path.write_text(SERVICE.spec.serveConfigV2)
    return load(path)


def test_rayllama_and_serve_take_the_config(config: DeployFile) -> None:
    assert remarks(config) == []
    assert not config.is_loopback
    assert config.settings.auth.keys  # or `refuse_public` would end every ingress
    SERVE.ServeDeploySchema.model_validate(yaml.safe_load(SERVICE.spec.serveConfigV2))


def test_the_config_is_that_of_a_gpu_cluster_but_for_one_number(config: DeployFile) -> None:
    plain = load(PROJECT / "configs/gpu.yaml").model_dump()
    plain["applications"][0]["args"]["inference"]["num_cpus"] = 0
    assert config.model_dump() == plain


def test_every_pod_has_the_environment_of_the_config(config: DeployFile) -> None:
    assert MANIFESTS["ConfigMap"]["data"] == config.env
    for container in RAY_CONTAINERS:
        named = [source.configMapRef.name for source in container.envFrom if source.configMapRef]
        assert named == [MANIFESTS["ConfigMap"]["metadata"]["name"]]


def test_no_secret_is_in_a_file() -> None:
    assert "Secret" not in MANIFESTS
    for container in RAY_CONTAINERS:
        assert [s.secretRef.optional for s in container.envFrom if s.secretRef] == [True]
    redis = patched(MANIFESTS["RayService"], "redis").spec.rayClusterConfig
    assert redis.gcsFaultToleranceOptions is not None
    assert "secretKeyRef" in redis.gcsFaultToleranceOptions.redisPassword["valueFrom"]


def test_the_versions_are_those_installed() -> None:
    assert CLUSTER.rayVersion == RAY.__version__
    lock = (PROJECT / "requirements.lock").read_text()
    assert re.search(rf"^ray(\[[a-z,]+\])?=={re.escape(RAY.__version__)} ", lock, re.MULTILINE)


def test_ports_are_those_that_listen(config: DeployFile) -> None:
    for container in RAY_CONTAINERS:
        ports = {port.name: port.containerPort for port in container.ports}
        assert ports["serve"] == config.http_options.port  # KubeRay's Service takes this name
        assert ports["dashboard"] == CONSTANTS.DEFAULT_DASHBOARD_PORT
    for group in (CLUSTER.headGroupSpec, INGRESS, GPU):
        assert group.rayStartParams["metrics-export-port"] == "8080"


def test_probes_ask_what_answers(config: DeployFile) -> None:
    dashboard = Path(RAY.__file__).parent / "dashboard/modules/reporter/healthz_agent.py"
    proxy = Path(SERVE.__file__).parent / "_private/haproxy.py"
    for container in (INGRESS.template.spec.containers[0], GPU.template.spec.containers[0]):
        ready, alive = container.readinessProbe, container.livenessProbe
        assert ready is not None
        assert alive is not None
        assert ready.httpGet.port == config.http_options.port
        assert ready.httpGet.path in proxy.read_text()
        assert alive.httpGet.port == CONSTANTS.DEFAULT_DASHBOARD_AGENT_LISTEN_PORT
        assert f'"{alive.httpGet.path}"' in dashboard.read_text()


def test_a_leaving_pod_has_time_for_the_longest_stream(config: DeployFile) -> None:
    settings = config.settings
    longest = max(settings.ingress.drain_timeout_s, settings.inference.drain_timeout_s)
    assert float(config.env["RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S"]) >= longest
    assert SERVICE.spec.rayClusterDeletionDelaySeconds >= longest
    for group in (INGRESS, GPU):
        lifecycle = group.template.spec.containers[0].lifecycle
        assert lifecycle is not None
        script, seconds = lifecycle.preStop.exec.command
        assert int(seconds) >= longest
        assert group.template.spec.terminationGracePeriodSeconds > int(seconds) + 30
        assert os.access(_in_checkout(script), os.X_OK)


def test_the_drain_asks_ray_by_options_that_it_has() -> None:
    script = (HERE / "drain.sh").read_text().replace("\\\n", " ")
    command = next(line for line in script.splitlines() if "ray drain-node" in line)
    options = {option: one for one in SCRIPTS.drain_node.params for option in one.opts}
    assert SCRIPTS.cli.commands["drain-node"] is SCRIPTS.drain_node
    words = command.split()
    assert {word for word in words if word.startswith("--")} <= set(options)
    assert words[words.index("--reason") + 1] in options["--reason"].type.choices


def test_replicas_fit_into_the_pods(config: DeployFile) -> None:
    settings = config.settings
    assert _cpus(INGRESS) * INGRESS.minReplicas >= (
        settings.ingress.replicas * settings.ingress.num_cpus
    )
    assert INGRESS.minReplicas == INGRESS.maxReplicas
    assert _cpus(GPU) == settings.inference.num_cpus == 0  # so that no ingress lands there
    assert CLUSTER.headGroupSpec.rayStartParams["num-cpus"] == "0"
    assert GPU.minReplicas == 0
    limits = GPU.template.spec.containers[0].resources
    assert limits is not None
    assert float(limits.limits["nvidia.com/gpu"]) >= settings.inference.num_gpus
    assert GPU.maxReplicas >= (settings.inference.max_replicas or 0) > 0


def _cpus(group: WorkerGroup) -> float:
    return float(group.rayStartParams["num-cpus"])


@pytest.mark.parametrize("variant", ["plain", "pvc"])
def test_models_outlive_the_pod(config: DeployFile, variant: str) -> None:
    service = SERVICE if variant == "plain" else patched(MANIFESTS["RayService"], "pvc")
    pod = service.spec.rayClusterConfig.workerGroupSpecs[1].template.spec
    assert [volume.name for volume in pod.volumes] == ["models"]
    assert (pod.volumes[0].hostPath is None) == (variant == "pvc")
    pull, serves = pod.initContainers[-1], pod.containers[0]
    script, *models = pull.command
    assert os.access(_in_checkout(script), os.X_OK)
    assert models == config.settings.inference.models
    assert _store(pull) == _store(serves) == serves.volumeMounts[0].mountPath
    assert config.settings.inference.models_dir == ""  # so that OLLAMA_MODELS says where


def _store(container: Container) -> str:
    return {variable.name: variable.value for variable in container.env}["OLLAMA_MODELS"]


def test_the_image_has_all_that_the_manifest_and_the_code_name() -> None:
    for folder in ("serve", "deployments", "configs"):
        assert f"COPY {folder} /opt/rayllama/{folder}\n" in IMAGE
    assert "--require-hashes" in IMAGE
    assert "requirements.lock" in IMAGE
    assert "COPY --from=ollama /usr/bin/ollama /usr/bin/ollama\n" in IMAGE
    images = {container.image for container in RAY_CONTAINERS}
    images |= {container.image for container in GPU.template.spec.initContainers}
    assert len(images) == 1
    assert f"-t {images.pop()} ." in IMAGE


def test_the_kustomization_names_what_is_here() -> None:
    text = (HERE / "kustomization.yaml").read_text()
    for line in yaml.safe_load(text)["resources"]:
        assert (HERE / line).is_file()
    for path in (HERE / "patches").iterdir():
        assert f"path: patches/{path.name}," in text


def _in_checkout(path: str) -> Path:
    return PROJECT / Path(path).relative_to("/opt/rayllama")


_FAKE_OLLAMA = """#!/bin/sh
# A fake: a store whose models are files; `serve` lives until it is killed.
case "$1" in
    serve) echo $$ > "$OLLAMA_MODELS/served"; exec sleep 60 ;;
    list) test -e "$OLLAMA_MODELS/served" ;;
    show) test -e "$OLLAMA_MODELS/$2" ;;
    pull) test "$2" != absent && echo "$2" >> "$OLLAMA_MODELS/pulled" && : > "$OLLAMA_MODELS/$2" ;;
esac
"""


@pytest.mark.skipif(shutil.which("flock") is None, reason="no flock here; the script is for Linux")
def test_only_models_that_are_not_there_are_pulled(tmp_path: Path) -> None:
    fake, store = tmp_path / "bin" / "ollama", tmp_path / "store"
    fake.parent.mkdir()
    fake.write_text(_FAKE_OLLAMA)
    fake.chmod(0o755)
    env = {"PATH": f"{fake.parent}:/usr/bin:/bin", "OLLAMA_MODELS": str(store)}

    def pull(*models: str) -> int:
        command = [str(PROJECT / "configs/pull.sh"), *models]
        return subprocess.run(command, env=env, timeout=30, check=False).returncode

    assert pull("one", "two") == 0
    assert pull("two", "three") == 0
    assert (store / "pulled").read_text().split() == ["one", "two", "three"]
    assert not Path(f"/proc/{(store / 'served').read_text().strip()}").exists()
    assert pull("absent") != 0
