"""What an engine is started with: its command, its environment, its model store.

Everything that changes what an engine answers is set explicitly, so that all replicas answer alike
whatever shell they were started from. Names and meaning: Ollama's envconfig.
"""

import os
import shutil
import sys
from functools import partial
from pathlib import Path

from serve.errors import ConfigError
from serve.ollama.reaper import MARK
from serve.settings import Environment, InferenceSettings, Settings, child_environment, environment

_PROJECT = Path(__file__).parents[2]
_SERVICE_MODELS = Path("/usr/share/ollama/.ollama/models")
_NO_GPU = "-1"

# What of this process's environment an engine must not see:
# - settings of another Ollama or llama.cpp, of which every one may change answers;
# - Ray's own, which are of no use to it and may hold a cluster's token;
# - Ray's guess of a worker's threads (one, where we reserve no CPU): the engine counts for itself.
_DROP = ("OLLAMA_", "LLAMA_", "RAY_", "OMP_NUM_THREADS")


def engine_command(settings: Settings, port: int) -> list[str]:
    """The command that serves Ollama's API on that loopback port.

    Raises `ConfigError` when the executable isn't there.
    """
    inference = settings.inference
    if inference.engine == "embedded":
        config = settings.embedded.model_dump_json()
        return [sys.executable, "-m", "serve.embedded", "--port", str(port), "--config", config]
    binary = shutil.which(inference.ollama_binary, path=environment().path)
    if binary is None:
        raise ConfigError(
            f"inference.ollama_binary: {inference.ollama_binary!r} is not an executable on PATH; "
            "install Ollama, name its path, or choose `engine: embedded`"
        )
    return [binary, "serve"]


def engine_environment(settings: Settings, *, port: int, home: Path, mark: str) -> dict[str, str]:
    """The whole environment of an engine; `inference.env` has the last word."""
    inference, here = settings.inference, environment()
    inherited = child_environment({}, _DROP)
    ours = {
        "HOME": str(home),  # the key pair made at a first start: servers that share it would race
        "XDG_CACHE_HOME": str(here.cache_home),  # the embedded engine's store stays shared
        "OLLAMA_HOST": f"127.0.0.1:{port}",
        "OLLAMA_NUM_PARALLEL": str(inference.slots),
        "OLLAMA_CONTEXT_LENGTH": str(inference.context_length),
        "OLLAMA_KEEP_ALIVE": inference.keep_alive,
        "OLLAMA_MAX_LOADED_MODELS": str(inference.max_loaded_models),
        # The queue is ours (`serve.ollama.gate`): the engine's own must never be what refuses.
        "OLLAMA_MAX_QUEUE": str(max(inference.max_queue, inference.slots)),
        "OLLAMA_NOPRUNE": "1",  # a start must not delete blobs from a store that others use
        "OLLAMA_NO_CLOUD": "1",
        "OLLAMA_MODELS": str(models_dir(inference, here)),
        MARK: mark,
    }
    if inference.flash_attention is not None:
        ours["OLLAMA_FLASH_ATTENTION"] = str(int(inference.flash_attention))
    if inference.kv_cache_type:
        ours["OLLAMA_KV_CACHE_TYPE"] = inference.kv_cache_type
    if inference.engine == "embedded":
        ours["PYTHONPATH"] = os.pathsep.join(
            filter(None, (str(_PROJECT), inherited.get("PYTHONPATH", "")))
        )
    more = {name: value.get_secret_value() for name, value in inference.env.items()}
    return inherited | ours | _gpus(inference, inherited, here) | more


def _gpus(
    inference: InferenceSettings, inherited: dict[str, str], here: Environment
) -> dict[str, str]:
    """Which GPUs the engine may see: those that Ray reserved, and no others.

    Ray puts its choice into CUDA_VISIBLE_DEVICES, and leaves it alone where nothing was reserved:
    the engine would then take a GPU that Ray believes to be free. So `num_gpus: 0` hides them all;
    to use one nevertheless, name it in `inference.env`.
    """
    if inference.num_gpus == 0:
        hidden = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "GGML_VK_VISIBLE_DEVICES")
        return dict.fromkeys(hidden, _NO_GPU)
    ours = {
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",  # as Ray counts them; CUDA's own order is by speed
        # Kernels compiled for a new GPU, kept across starts although HOME is new each time.
        "CUDA_CACHE_PATH": inherited.get(
            "CUDA_CACHE_PATH", str(here.home / ".nv" / "ComputeCache")
        ),
    }
    if "CUDA_VISIBLE_DEVICES" in inherited:
        ours["OLLAMA_VULKAN"] = "0"  # Vulkan would see the other replicas' GPUs all the same
    return ours


def give_identity(identity: str, home: Path) -> None:
    """Puts the key that a registry knows us by where the engine looks for it.

    Raises `ConfigError` if it can't be read. It is copied for its owner alone, as Ollama keeps it.
    """
    if not identity:
        return
    try:
        key = Path(identity).expanduser().read_bytes()
    except OSError as exc:
        raise ConfigError(
            f"inference.identity: {identity}: {exc.strerror}; name a private key that this user "
            "may read, on every node, or none"
        ) from None
    folder = home / ".ollama"
    folder.mkdir(mode=0o700, exist_ok=True)
    place = folder / "id_ed25519"
    place.unlink(missing_ok=True)  # of the engine before this one
    with open(place, "xb", opener=partial(os.open, mode=0o600)) as file:
        file.write(key)


def models_dir(inference: InferenceSettings, here: Environment) -> Path:
    """The model store that all engines of this node share.

    The setting, else OLLAMA_MODELS of this process, else where this node's Ollama keeps it: in the
    user's home or, where only that one exists and may be read, in that of its systemd service.
    """
    if inference.models_dir:
        return Path(inference.models_dir).expanduser()
    if here.ollama_models is not None:
        return here.ollama_models
    own = here.home / ".ollama" / "models"
    if not own.is_dir() and os.access(_SERVICE_MODELS, os.R_OK | os.X_OK):
        return _SERVICE_MODELS
    return own
