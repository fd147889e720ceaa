"""`cluster.yaml` and its like: valid for Ray's launcher, and true to the code."""

import importlib
import os
import subprocess
import warnings
from pathlib import Path
from typing import Any

import pytest
import yaml

from serve.cli.deployfile import PROJECT, load

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Ray's own use of pydantic
    LAUNCHER: Any = importlib.import_module("ray.autoscaler._private.util")
    SCRIPTS: Any = importlib.import_module("ray.scripts.scripts")

AWS = PROJECT / "cluster.yaml"
ONPREM = PROJECT / "configs" / "onprem" / "cluster.yaml"
GPU = load(PROJECT / "configs/gpu.yaml").settings

each = pytest.mark.parametrize("path", [AWS, ONPREM], ids=["aws", "onprem"])


def prepared(path: Path) -> dict[str, Any]:
    """The file as `ray up` takes it: with the provider's defaults filled in, and validated."""
    config: dict[str, Any] = LAUNCHER.prepare_config(yaml.safe_load(path.read_text()))
    LAUNCHER.validate_config(config)
    return config


def commands(config: dict[str, Any]) -> list[str]:
    kinds = ("initialization", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
    return [command for kind in kinds for command in config[f"{kind}_commands"]]


@each
def test_valid_for_ray(path: Path) -> None:
    assert prepared(path)["cluster_name"] == "rayllama"


@each
def test_a_fault_is_found(path: Path) -> None:
    config = prepared(path)
    with pytest.raises(Exception, match="no_such_key"):
        LAUNCHER.validate_config(config | {"no_such_key": 1})


@each
def test_every_command_is_one_that_a_shell_can_read(path: Path) -> None:
    for command in commands(prepared(path)):
        done = subprocess.run(["bash", "-n", "-c", command], capture_output=True, check=False)
        assert done.returncode == 0, (command, done.stderr)


@each
def test_nothing_of_the_providers_defaults_installs_another_ray(path: Path) -> None:
    assert [
        one for one in commands(prepared(path)) if "ray-wheels" in one or "anaconda" in one
    ] == []


@each
def test_code_packages_and_models_come_along(path: Path) -> None:
    config = prepared(path)
    assert config["file_mounts"]["~/rayllama"] == "."
    lines = commands(config)
    assert any("make -C ~/rayllama setup" in line for line in lines)
    pulls = [line for line in lines if "pull.sh" in line]
    assert pulls
    for line in pulls:
        assert line.split("pull.sh ")[1].split() == GPU.inference.models
        assert "OLLAMA_MODELS=~/models " in line
    for line in config["worker_start_ray_commands"][1:]:
        assert "OLLAMA_MODELS=~/models " in line  # the store that an engine finds there
    assert os.access(PROJECT / "configs/pull.sh", os.X_OK)


@each
def test_the_token_is_asked_of_every_node_and_is_in_no_file(path: Path) -> None:
    config = prepared(path)
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    for kind in ("head", "worker"):
        starts = [line for line in config[f"{kind}_start_ray_commands"] if "ray start" in line]
        assert len(starts) == 1
        assert "RAY_AUTH_MODE=token " in starts[0]


@each
def test_ray_start_has_every_option_that_is_used(path: Path) -> None:
    known = {option for one in SCRIPTS.start.params for option in (*one.opts, *one.secondary_opts)}
    config = prepared(path)
    for kind in ("head", "worker"):
        line = config[f"{kind}_start_ray_commands"][-1]
        used = {word.partition("=")[0] for word in line.split() if word.startswith("--")}
        assert used <= known


def test_the_nodes_of_the_cloud_hold_what_the_config_asks_for() -> None:
    config = prepared(AWS)
    types = config["available_node_types"]
    assert types["head"]["resources"]["CPU"] == 0
    assert types["head"]["max_workers"] == 0
    front, gpu = types["ingress"], types["gpu"]
    needed = GPU.ingress.replicas * GPU.ingress.num_cpus
    assert front["resources"]["CPU"] * front["min_workers"] >= needed
    assert gpu["min_workers"] == 0
    assert gpu["max_workers"] >= (GPU.inference.max_replicas or 0) > 0
    assert gpu["resources"]["GPU"] == GPU.inference.num_gpus
    assert gpu["resources"]["CPU"] == GPU.inference.num_cpus  # none is left for an ingress
    assert config["max_workers"] >= front["max_workers"] + gpu["max_workers"]


def test_every_machine_of_the_list_is_a_node() -> None:
    config = prepared(ONPREM)
    assert config["max_workers"] == len(config["provider"]["worker_ips"])
