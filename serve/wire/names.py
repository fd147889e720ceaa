"""Model names, as Ollama reads and prints them.

`[host/][namespace/]model[:tag]`, with the defaults `registry.ollama.ai`, `library` and `latest`.
Names match without regard to case, so the canonical form is lower case. Names that say `:cloud` or
`-cloud` keep it in their tag, as their manifests are stored: they are other models than their local
namesakes.
"""

import re
from dataclasses import dataclass

from serve.errors import BadRequest

INVALID = "invalid model name"
REQUIRED = "model is required"

DEFAULT_HOST, DEFAULT_NAMESPACE, _TAG = "registry.ollama.ai", "library", "latest"
_GO_SPACE = (
    "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006"
    "\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000"
)
_HOST_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,349}")
_NAMESPACE_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}")
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}")


@dataclass(frozen=True, slots=True)
class Name:
    """The four parts of a valid name, in the caller's spelling."""

    host: str
    namespace: str
    model: str
    tag: str


def parse(name: str) -> Name:
    """The parts of a name, defaults filled in.

    Raises `BadRequest`: `model is required` for an empty name, `invalid model name` for one whose
    parts Ollama refuses, and Ollama's words for a name that says both `:local` and `:cloud`.
    """
    reference = name.strip(_GO_SPACE)
    if not reference:
        raise BadRequest(REQUIRED)
    return _split(_stored(reference))


def is_cloud(name: str) -> bool:
    """Does it name a model of Ollama's cloud? False for a name that `parse` refuses."""
    reference = name.strip(_GO_SPACE)
    base, source = _source(reference)
    if source != "cloud" or _source(base)[1]:
        return False
    try:
        _split(base)
    except BadRequest:
        return False
    return True


def canonical(name: str) -> str:
    """`SmolLM2:135M` → `registry.ollama.ai/library/smollm2:135m`. Raises as `parse` does."""
    parts = parse(name)
    return f"{parts.host}/{parts.namespace}/{parts.model}:{parts.tag}".lower()


def short(name: str) -> str:
    """The shortest form that still has its tag, as `/api/tags` and `/api/ps` show it.

    Keeps the caller's case. Raises as `parse` does.
    """
    parts = parse(name)
    if parts.host.lower() != DEFAULT_HOST:
        return f"{parts.host}/{parts.namespace}/{parts.model}:{parts.tag}"
    if parts.namespace.lower() != DEFAULT_NAMESPACE:
        return f"{parts.namespace}/{parts.model}:{parts.tag}"
    return f"{parts.model}:{parts.tag}"


def _stored(reference: str) -> str:
    """The reference without `:local`, and with a cloud's in the tag; refused where it names two
    sources."""
    base, source = _source(reference)
    if not source:
        return reference
    if _source(base)[1]:
        raise BadRequest(f'use either :local or :cloud, not both: "{reference}"')
    if source == "local":
        return base
    has_tag = base.rfind(":") > base.rfind("/")
    return f"{base}-cloud" if has_tag else f"{base}:cloud"


def _source(reference: str) -> tuple[str, str]:
    """What stands before an explicit source, and the source: `local`, `cloud` or none ("")."""
    base, colon, suffix = reference.rpartition(":")
    suffix = suffix.strip(_GO_SPACE)
    if not colon:
        return reference, ""
    if suffix.lower() in ("cloud", "local"):
        return base, suffix.lower()
    if "/" not in suffix and suffix.lower().endswith("-cloud"):
        return f"{base}:{suffix[: -len('-cloud')]}", "cloud"
    return reference, ""


def _split(reference: str) -> Name:
    rest, tag = reference, _TAG
    if reference.rfind(":") > reference.rfind("/"):
        rest, _, tag = reference.rpartition(":")
    before, slash, model = rest.rpartition("/")
    place, host_slash, namespace = before.rpartition("/")
    scheme, separator, address = place.partition("://")
    host = (address if separator else scheme) if host_slash else DEFAULT_HOST
    namespace = namespace if slash else DEFAULT_NAMESPACE
    valid = (
        _HOST_PART.fullmatch(host)
        and _NAMESPACE_PART.fullmatch(namespace)
        and _PART.fullmatch(model)
        and _PART.fullmatch(tag)
    )
    if not valid:
        raise BadRequest(INVALID)
    return Name(host, namespace, model, tag)
