"""What an engine is started with."""

import sys
from pathlib import Path
from typing import Any

import pytest

from serve.errors import ConfigError
from serve.ollama import environment as module
from serve.ollama.environment import (
    engine_command,
    engine_environment,
    give_identity,
    models_dir,
)
from serve.ollama.reaper import MARK
from serve.settings import Environment, InferenceSettings, Settings, environment


def settings(**inference: Any) -> Settings:
    return Settings(inference=InferenceSettings(**({"engine": "ollama"} | inference)))


def started_with(given: Settings) -> dict[str, str]:
    return engine_environment(given, port=1234, home=Path("/h"), mark="m.1.2.r")


@pytest.fixture(autouse=True)
def _shell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A shell that says a lot of things that an engine must not hear."""
    for name, value in {
        "HOME": str(tmp_path),
        "OLLAMA_DEBUG": "2",
        "OLLAMA_NUM_PARALLEL": "99",
        "LLAMA_ARG_TEMP": "5",
        "RAY_AUTH_TOKEN": "secret",
        "OMP_NUM_THREADS": "1",
        "HTTPS_PROXY": "http://proxy:3128",
        "SOMETHING": "else",
    }.items():
        monkeypatch.setenv(name, value)
    for name in ("OLLAMA_MODELS", "CUDA_VISIBLE_DEVICES", "XDG_CACHE_HOME", "PYTHONPATH"):
        monkeypatch.delenv(name, raising=False)


def test_everything_that_changes_answers_is_explicit(tmp_path: Path) -> None:
    got = started_with(
        settings(slots=3, context_length=2048, keep_alive="5m", max_queue=7, num_gpus=0)
    )
    ours = {name: value for name, value in got.items() if name.startswith("OLLAMA_")}
    assert ours == {
        "OLLAMA_HOST": "127.0.0.1:1234",
        "OLLAMA_NUM_PARALLEL": "3",
        "OLLAMA_CONTEXT_LENGTH": "2048",
        "OLLAMA_KEEP_ALIVE": "5m",
        "OLLAMA_MAX_LOADED_MODELS": "0",
        "OLLAMA_MAX_QUEUE": "7",
        "OLLAMA_NOPRUNE": "1",
        "OLLAMA_NO_CLOUD": "1",
        "OLLAMA_MODELS": str(tmp_path / ".ollama" / "models"),
    }
    assert got["HOME"] == "/h"
    assert got[MARK] == "m.1.2.r"
    assert got["XDG_CACHE_HOME"] == str(tmp_path / ".cache")


def test_the_shells_own_settings_stay_outside_and_proxies_come_in() -> None:
    got = started_with(settings())
    assert not {"OLLAMA_DEBUG", "LLAMA_ARG_TEMP", "RAY_AUTH_TOKEN", "OMP_NUM_THREADS"} & set(got)
    assert got["HTTPS_PROXY"] == "http://proxy:3128"
    assert got["SOMETHING"] == "else"


def test_what_is_set_only_when_asked_for() -> None:
    got = started_with(settings(flash_attention=False, kv_cache_type="q8_0"))
    assert got["OLLAMA_FLASH_ATTENTION"] == "0"
    assert got["OLLAMA_KV_CACHE_TYPE"] == "q8_0"
    assert started_with(settings(flash_attention=True))["OLLAMA_FLASH_ATTENTION"] == "1"


def test_the_operator_has_the_last_word() -> None:
    env = {"OLLAMA_MAX_QUEUE": "1", "CUDA_VISIBLE_DEVICES": "3", "OLLAMA_DEBUG": "1"}
    got = started_with(settings(num_gpus=0, env=env))
    assert env.items() <= got.items()


def test_the_engines_queue_is_never_what_refuses() -> None:
    assert started_with(settings(slots=8, max_queue=0))["OLLAMA_MAX_QUEUE"] == "8"


def test_a_reserved_gpu_is_kept_exactly(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-f3a9,2")
    got = started_with(settings(num_gpus=2))
    assert got["CUDA_VISIBLE_DEVICES"] == "GPU-f3a9,2"
    assert got["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    assert got["CUDA_CACHE_PATH"] == str(tmp_path / ".nv" / "ComputeCache")
    assert got["OLLAMA_VULKAN"] == "0"


def test_without_ray_nothing_is_hidden_from_a_replica_with_a_gpu() -> None:
    got = started_with(settings(num_gpus=1))
    assert not {"CUDA_VISIBLE_DEVICES", "OLLAMA_VULKAN"} & set(got)


def test_without_a_reservation_all_gpus_are_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    got = started_with(settings(num_gpus=0))
    for name in ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "GGML_VK_VISIBLE_DEVICES"):
        assert got[name] == "-1"


def test_the_embedded_engine_finds_our_packages_from_anywhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root = str(Path(module.__file__).parents[2])
    assert started_with(settings(engine="embedded"))["PYTHONPATH"] == root
    monkeypatch.setenv("PYTHONPATH", "/more")
    assert started_with(settings(engine="embedded"))["PYTHONPATH"] == f"{root}:/more"


def test_commands(tmp_path: Path) -> None:
    binary = tmp_path / "ollama"
    binary.touch(mode=0o755)
    assert engine_command(settings(ollama_binary=str(binary)), 77) == [str(binary), "serve"]
    embedded = engine_command(settings(engine="embedded"), 77)
    assert embedded[:5] == [sys.executable, "-m", "serve.embedded", "--port", "77"]
    assert embedded[6] == settings().embedded.model_dump_json()
    with pytest.raises(ConfigError, match="engine: embedded"):
        engine_command(settings(ollama_binary=str(tmp_path / "none")), 77)


class TestModelStore:
    """One folder a node: the setting, the environment, the user's home, the service's."""

    def here(self, **given: Any) -> Environment:
        return environment().model_copy(update=given)

    def test_the_setting_wins(self, tmp_path: Path) -> None:
        here = self.here(ollama_models=tmp_path)
        assert models_dir(settings(models_dir="/m").inference, here) == Path("/m")

    def test_then_the_environment(self, tmp_path: Path) -> None:
        here = self.here(ollama_models=tmp_path)
        assert models_dir(settings().inference, here) == tmp_path

    def test_then_the_home_and_else_the_services(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        service = tmp_path / "usr" / "models"
        monkeypatch.setattr(module, "_SERVICE_MODELS", service)
        here, own = self.here(home=tmp_path), tmp_path / ".ollama" / "models"
        assert models_dir(settings().inference, here) == own
        service.mkdir(parents=True)
        assert models_dir(settings().inference, here) == service
        own.mkdir(parents=True)
        assert models_dir(settings().inference, here) == own


def test_an_engine_is_given_the_key_that_a_registry_knows(tmp_path: Path) -> None:
    home, key = tmp_path / "home", tmp_path / "key"
    home.mkdir()
    key.write_text("-----BEGIN OPENSSH PRIVATE KEY-----")
    key.chmod(0o644)
    for _ in range(2):  # a restart too
        give_identity(str(key), home)
    place = home / ".ollama" / "id_ed25519"
    assert place.read_text() == key.read_text()
    assert place.stat().st_mode & 0o777 == 0o600
    give_identity("", tmp_path)
    assert not (tmp_path / ".ollama").exists()
    with pytest.raises(ConfigError, match=r"inference\.identity: /nope: No such file"):
        give_identity("/nope", home)
