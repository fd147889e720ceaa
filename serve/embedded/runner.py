"""The process of one loaded model: llama.cpp's own HTTP server, on a free loopback port.

Owns:         one `xllamacpp.Server`, which can't be unloaded but by ending its process.
Does not own: which model runs and how long; the engine decides, and kills.
Lives:        from a load to an unload; asked for a line of JSON on stdin, answers one on stdout.
Dies:         by the engine's SIGKILL, or with the engine: by the kernel's parent-death signal, and
              where there is none, by the end of stdin.
"""

import ctypes
import json
import os
import signal
import sys
from collections.abc import Mapping
from typing import Any, NoReturn

_PR_SET_PDEATHSIG = 1
_KV_TYPES = {"f16": "GGML_TYPE_F16", "q8_0": "GGML_TYPE_Q8_0", "q4_0": "GGML_TYPE_Q4_0"}
_ERRORS_ONLY = 1


def run(parent_pid: int) -> NoReturn:
    """Serves the model that the line on stdin describes until the engine lets go of stdin."""
    _die_with(parent_pid)
    answer = os.dup(1)
    os.dup2(2, 1)  # nobody reads what llama.cpp may print later: a full pipe would stop it
    spec = json.loads(sys.stdin.readline())
    server = _server(spec)
    os.write(answer, json.dumps({"address": server.listening_address}).encode() + b"\n")
    os.close(answer)
    sys.stdin.read()
    os._exit(0)


def _die_with(parent_pid: int) -> None:
    """The kernel kills this process with the engine's main thread (Linux; elsewhere: stdin)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        os._exit(1)


def _server(spec: Mapping[str, Any]) -> Any:
    """Loads the model; the returned server answers already. Raises what llama.cpp raises."""
    import xllamacpp  # noqa: PLC0415 - 100 ms and the whole of llama.cpp, which the engine never needs

    params = xllamacpp.CommonParams()
    params.model.path = spec["path"]
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.api_keys = [spec["key"]]
    params.ui = False
    params.offline = True
    params.verbosity = _ERRORS_ONLY
    params.fit_params = False
    params.n_parallel = spec["slots"]
    params.n_ctx = spec["context"] * spec["slots"]
    params.n_batch = params.n_ubatch = spec["batch"]
    params.embedding = spec["embedding"]
    params.chat_template = spec["template"]
    params.prefill_assistant = False  # Ollama ends every message, the last one too
    params.ctx_shift = spec["shift"]
    params.cache_ram_mib = 0  # no copies of idle slots: by default up to 8 GiB
    _machine(params, spec, xllamacpp)
    return xllamacpp.Server(params)


def _machine(params: Any, spec: Mapping[str, Any], xllamacpp: Any) -> None:
    """What the hardware is asked for."""
    if spec["threads"]:
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = spec["threads"]
    if spec["gpu_layers"] >= 0:
        params.n_gpu_layers = spec["gpu_layers"]
    if spec["main_gpu"] is not None:
        params.main_gpu = spec["main_gpu"]
    if spec["mmap"] is not None:
        mode = "LLAMA_LOAD_MODE_MMAP" if spec["mmap"] else "LLAMA_LOAD_MODE_NONE"
        params.load_mode = getattr(xllamacpp.llama_load_mode, mode)
    if spec["kv_type"]:
        kind = getattr(xllamacpp.ggml_type, _KV_TYPES[spec["kv_type"]])
        params.cache_type_k = params.cache_type_v = kind
    if spec["flash_attention"] is not None:
        state = "ENABLED" if spec["flash_attention"] else "DISABLED"
        params.flash_attn_type = getattr(
            xllamacpp.llama_flash_attn_type, f"LLAMA_FLASH_ATTN_TYPE_{state}"
        )
