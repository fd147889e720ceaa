"""What the requests of all ingresses came to, as the admin API tells it.

`hits` by tier, `misses` and `bypasses` by reason; `joined`, those misses that heard an answer that
was being generated for another; `tokens_saved` and `gpu_s_saved` (seconds) by hits, by requests
that joined, and by the known inputs of embedding batches (`serve.cache.worth`). For all, and again
for each of `models` and `tenants`.
"""

from collections.abc import Sequence
from typing import Any

from serve.cache.ledger import by, shown, summed
from serve.cache.protocol import Row


def requests_of(rows: Sequence[Row]) -> dict[str, Any]:
    """The rows of all shards, added up."""
    models, tenants = by(lambda row: shown(row.model), rows), by(lambda row: row.tenant, rows)
    return {
        **_told(summed(rows)),
        "models": {name: _told(row) for name, row in models.items()},
        "tenants": {name: _told(row) for name, row in tenants.items()},
    }


def _told(row: Row) -> dict[str, Any]:
    misses = row.answers.get("miss", {})
    return {
        "hits": row.answers.get("hit", {}),
        "misses": misses,
        "bypasses": row.answers.get("bypass", {}),
        "joined": misses.get("joined", 0),
        "tokens_saved": row.tokens,
        "gpu_s_saved": row.gpu_ns / 1e9,
    }
