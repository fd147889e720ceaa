"""Rayllama's processes in plain Python; Ray is named only in `app.py` and `cli`.

A cached request, in reading order:

    web/gateway.py        raw ASGI: body, caller, these very bytes?
    web/identity.py       who is calling
    cache/recognise.py    the bytes' own key
    cache/near.py         the near cache, under the catalogue's lease
    web/routes.py         the whole route table
    web/infer.py          the request's meaning: hit or miss
    cache/service.py      policy, key and shards put together
    cache/key.py          what a request means, as 16 bytes
    cache/shard.py        the shared store behind its socket

And a miss goes on: cache/joining.py (who generates it) → web/relay.py → deployments/handles.py →
deployments/inference.py → ollama/supervisor.py → ollama/client.py → the engine (embedded/, or a
real Ollama).
"""
