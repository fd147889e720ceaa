"""What each admin route takes and answers, as `serve.web.operations` has it for the others."""

from collections.abc import Mapping

from serve.web import admin, admin_types, bundles
from serve.web.operations import BYTES, Operation, said_in_json

_ADMIN = (401, 403, 500, 503)
"""No key, none of an admin, a fault of ours, a shard that doesn't answer."""

ADMIN: Mapping[tuple[str, str], Operation] = {
    ("GET", "/admin/fleet"): Operation(
        "The pools, their replicas, and what each has loaded",
        said_in_json(admin_types.Fleet),
        "admin",
        errors=_ADMIN,
    ),
    ("GET", "/admin/cache/stats"): Operation(
        "What the shards hold and have done",
        said_in_json(admin_types.CacheStats),
        "admin",
        errors=_ADMIN,
    ),
    ("POST", "/admin/cache/explain"): Operation(
        "What would become of a request, and why",
        said_in_json(admin_types.Explained),
        "admin",
        admin.ExplainBody,
        errors=(*_ADMIN, 400, 413),
    ),
    ("POST", "/admin/cache/purge"): Operation(
        "Drop entries everywhere, or tell how many it would be",
        said_in_json(admin_types.PurgedEntries),
        "admin",
        admin.PurgeBody,
        errors=(*_ADMIN, 400, 413),
    ),
    ("POST", "/admin/cache/pause"): Operation(
        "Have the cache passed by", said_in_json(admin_types.Paused), "admin", errors=_ADMIN
    ),
    ("POST", "/admin/cache/resume"): Operation(
        "Have the cache used again", said_in_json(admin_types.Paused), "admin", errors=_ADMIN
    ),
    ("POST", "/admin/cache/export"): Operation(
        "The entries as a file",
        {200: {BYTES: BYTES}},
        "admin",
        bundles.ExportBody,
        errors=(*_ADMIN, 400, 413),
    ),
    ("POST", "/admin/cache/import"): Operation(
        "Take in a file that an export gave",
        said_in_json(admin_types.Imported),
        "admin",
        BYTES,
        errors=(*_ADMIN, 422),
    ),
}
