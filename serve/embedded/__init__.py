"""The embedded engine: a server process that speaks Ollama's native API over llama.cpp.

It stands in for `ollama serve`, on any machine, without a download: started as
`python -m serve.embedded --port N --config JSON`, ready when `/api/version` answers 200. Like
Ollama it runs every loaded model in a process of its own, which llama.cpp serves over HTTP on
loopback.

A request's way: `server` (connection, disconnects) → `routes` (which handler) → `generate`, `chat`,
`embed` or `show` → `scheduler` (which runner; load, evict, reload) → `completion` or `native_chat`
(what to ask) → `llama` (the runner's HTTP) → the process that `runner` is.
Models: `shelf` (all of them, true to their files) over `sources` (where they come from), `models`
(what one is), `gguf_facts` (reading GGUF) and `store` (what is converted and remembered on disk),
with `bert_gguf` (safetensors to GGUF, once).

Changing them: `managing` (copy, delete, blobs), `creating` and `pulling` (over `registry`), as
`layers` under `manifests` and `blobs`, which `library` makes sources of; the layout is Ollama's.

Compatible with Ollama 0.33.0, and it says so in `/api/version`, since clients compare versions.
What differs on purpose is listed, with reasons, in `serve/conformance/permitted.py`.
"""

OLLAMA_VERSION = "0.33.0"
