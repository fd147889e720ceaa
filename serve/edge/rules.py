"""What the proxy is taught: the rules for a request, in HAProxy's language (2.8).

A request qualifies if it is a POST to an inference route with a Content-Length that fits the
buffer, without any of the headers that ask for something special (`ODD`), while there is a lease.
Then its body is waited for, and its key (`serve.edge.key`) looked up. What is found is answered
here if the lease lasts; all else goes on as if there were no edge.

1. What is hashed is the body, then as many lines as there are other things in the key. No line can
   hold another, and the last is the body's size: so nothing can be made to run together, and a
   body that isn't whole, or that holds a NUL (where HAProxy's text ends), is no entry's. Of a
   header that came twice the last is taken, as the ingress does; to both, an empty one is none.
2. Entries are one value in one map (`serve.edge.value`), so that none is ever seen half changed.
3. The lease is the wall clock time at which it ends, in milliseconds: however late the proxy learns
   of it, it ends no later. It is looked at after the body has come, which may take its time, and
   after the entry: so what is answered was valid then. A lease that ends later than any that is
   given (`LEASE_MS`) is none: the clock was set back. So is an answer from the future.
4. The text that HAProxy formats can't hold control characters: it writes `%0A` for a newline. So an
   answer of one line is formatted, which is the fastest, and one of several lines is put together
   in Lua, at half the speed.
5. An edge hit is not logged: Serve logs a line for each request to make metrics of, which would
   cost two thirds of the speed. It is counted in a stick table instead, by its key.
6. Each rule and each variable costs every hit, and each pattern (`-m str`, `-m int`) takes a lock
   that all of HAProxy's threads share. So numbers are compared by their bits, which takes none: one
   that is not negative has none of the bits of `NEGATIVE`.
7. A body that is not there within `BODY_WITHIN_S` gets HAProxy's own 408.

Nothing that a client sends becomes part of a rule: what varies is in variables alone.
"""

from typing import NamedTuple

ROUTES = (
    "/api/chat",
    "/api/embed",
    "/api/embeddings",
    "/api/generate",
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/messages",
    "/v1/responses",
)
"""The paths that may be answered here; what the ingress knows of them is in `serve.web.routes`."""

KEYED = ("host", "accept", "authorization", "x-api-key")
"""The headers in the key: who may see the answer (all that `serve.web.identity` reads), and what
may change it. `Host`, because a listener on loopback answers to some names only
(`serve.web.origin`)."""

ODD = (
    "cache-control",
    "content-encoding",
    "expect",
    "if-",
    "origin",
    "pragma",
    "range",
    "transfer-encoding",
    "upgrade",
    "x-rayllama-",
)
"""A request with a header in whose name one of these is goes on to the ingress."""

TABLE = "http_frontend"
"""The stick table's name: a table in a section has that section's."""

KEY_AT, BODY_AT = 45, 78
"""Where the shared store's key and the body begin in an entry's value (`serve.edge.value`)."""

LEASE = "lease"
LEASE_MS = 65_535
"""The longest lease: a power of two less one, as a mask tests it."""
BODY_WITHIN_S = 10
NEGATIVE = -(1 << 62)
_HEADERS_BYTES = 4096
"""What is left in the buffer for a request's or an answer's headers, and HAProxy's own reserve."""

PLAIN = {
    "11": ("application/json; charset=utf-8", ""),
    "12": ("application/json; charset=utf-8", "\\n"),
    "13": ("application/json", ""),
    "14": ("application/json", "\\n"),
}
"""The kinds of answers of one line, as numbers of two digits: content type, and what follows the
line."""

LINES_BIT = 16
LINES = {
    "16": "application/x-ndjson",
    "17": "text/event-stream",
    "18": "application/json; charset=utf-8",
    "19": "application/json",
}
"""The kinds of answers of any lines, put together in Lua: the numbers with `LINES_BIT`."""


class Files(NamedTuple):
    """The maps and the script, as absolute paths; HAProxy knows a map by its file's."""

    answers: str
    lease: str
    script: str


def body_limit(bufsize: int) -> int:
    """How long a request's or an answer's body may be, in bytes, in a buffer of this size."""
    return max(0, bufsize - _HEADERS_BYTES)


def script() -> str:
    """The Lua script."""
    types = "\n".join(f'  ["{kind}"] = "{content_type}",' for kind, content_type in LINES.items())
    return _SCRIPT.replace("@TYPES@", types)


def rules(files: Files, bufsize: int) -> str:
    """The lines for the frontend, indented as Serve's are."""
    plain = "\n".join(_plain(kind, *PLAIN[kind]) for kind in PLAIN)
    keyed = "\\n".join(f"%[req.fhdr({name})]" for name in KEYED)
    text = _RULES
    for name, value in {
        "@ROUTES@": " ".join(ROUTES),
        "@ODD@": " ".join(ODD),
        "@ANSWERS@": files.answers,
        "@LEASE@": files.lease,
        "@LEASE_BITS@": str(~LEASE_MS),
        "@LIMIT@": str(body_limit(bufsize)),
        "@WITHIN@": str(BODY_WITHIN_S),
        "@KEYED@": keyed,
        "@PLAIN@": plain,
        "@BODY_AT@": str(BODY_AT),
        "@STATUS@": _STATUS,
        "@AGE@": _AGE,
        "@NEGATIVE@": str(NEGATIVE),
        "@LINES_BIT@": str(LINES_BIT),
    }.items():
        text = text.replace(name, value)
    return text


def _plain(kind: str, content_type: str, end: str) -> str:
    return (
        f'    http-request return status 200 content-type "{content_type}" {_HEADERS}'
        f' lf-string "%[var(txn.edge_value),bytes({BODY_AT})]{end}"'
        f" if {{ var(txn.edge_kind),sub({kind}),not -m bool }}"
    )


_STATUS = (
    "rayllama; hit; ttl=%[var(txn.edge_value),field(3,|),sub(txn.edge_now),div(1000)]; "
    f'key=\\"%[var(txn.edge_value),bytes({KEY_AT},32)]\\"; detail=edge'
)

_AGE = "var(txn.edge_value),field(2,|),sub(txn.edge_now),neg,div(1000)"

_HEADERS = (
    'hdr date "%[date,http_date]" hdr x-rayllama-cache "hit; tier=edge"'
    f' hdr age "%[{_AGE}]" hdr cache-status "{_STATUS}"'
    ' hdr x-request-id "%[var(txn.edge_id)]"'
)

_RULES = """\
    stick-table type string len 64 size 100k expire 10m store http_req_cnt
    acl edge_route path -m str @ROUTES@
    acl edge_odd req.hdr_names -m sub @ODD@
    acl edge_sized req.hdr_val(content-length),sub(@LIMIT@),neg,and(@NEGATIVE@),not -m bool
    acl edge_fed str(lease),map_str_int(@LEASE@,0) -m bool
    acl edge_leased str(lease),map_str_int(@LEASE@,0),sub(txn.edge_now),sub(1),and(@LEASE_BITS@),not -m bool
    acl edge_asked var(txn.edge_head) -m found
    acl edge_fresh var(txn.edge_value),field(1,|),sub(txn.edge_now),and(@NEGATIVE@),not -m bool
    acl edge_begun var(txn.edge_value),field(2,|),sub(txn.edge_now),sub(1000),and(@NEGATIVE@) -m bool
    acl edge_hit var(txn.edge_kind) -m found
    acl edge_lines var(txn.edge_kind),and(@LINES_BIT@) -m bool
    acl edge_named var(txn.edge_id) -m found
    http-request set-var-fmt(txn.edge_head) "\\n%[method]\\n%[pathq]\\n@KEYED@\\n%[req.body_size]" if edge_route edge_fed edge_sized !edge_odd
    http-request wait-for-body time @WITHIN@s if edge_asked
    http-request set-var(txn.edge_now) date(0,ms) if edge_asked
    http-request set-var(txn.edge_key) req.body,concat(,txn.edge_head),sha2(256),hex if edge_asked
    http-request set-var(txn.edge_value) var(txn.edge_key),map_str(@ANSWERS@) if edge_asked
    http-request set-var(txn.edge_kind) var(txn.edge_value),field(4,|),add(0) if edge_fresh edge_begun edge_leased
    http-request set-var(txn.edge_id) req.fhdr(x-request-id) if edge_hit { req.fhdr(x-request-id) -m len 1:128 }
    http-request set-var(txn.edge_id) uuid if edge_hit !edge_named
    http-request track-sc0 var(txn.edge_key) if edge_hit
    http-request set-log-level silent if edge_hit
@PLAIN@
    http-request set-var(txn.edge_text) var(txn.edge_value),bytes(@BODY_AT@),url_dec if edge_lines
    http-request set-var-fmt(txn.edge_status) "@STATUS@" if edge_lines
    http-request set-var(txn.edge_age) @AGE@ if edge_lines
    http-request set-var(txn.edge_date) date,http_date if edge_lines
    http-request lua.rayllama_edge if edge_lines
"""  # noqa: E501 - HAProxy's lines can't be broken

_SCRIPT = """\
local types = {
@TYPES@
}
core.register_action("rayllama_edge", { "http-req" }, function(txn)
  local reply = txn:reply{ status = 200 }
  reply:add_header("content-type", types[tostring(txn:get_var("txn.edge_kind"))])
  reply:add_header("date", txn:get_var("txn.edge_date"))
  reply:add_header("x-rayllama-cache", "hit; tier=edge")
  reply:add_header("age", tostring(txn:get_var("txn.edge_age")))
  reply:add_header("cache-status", txn:get_var("txn.edge_status"))
  reply:add_header("x-request-id", txn:get_var("txn.edge_id"))
  reply:set_body(txn:get_var("txn.edge_text"))
  txn:done(reply)
end)
"""
