"""A model as the engine serves it, and what it can do."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from serve.embedded.gguf_facts import Facts
from serve.embedded.sources import Seen
from serve.wire.messages import Message


@dataclass(frozen=True)
class LocalModel:
    """A model as the engine serves it. `digest` is a sha256 over what determines its answers.

    `seen` are the files that all of this was read from, as they were then. `messages` come before
    those of every chat; `parent` is the model that it was created from. `foreign`: its template is
    one that can't be rendered here, and its weights' file has no other.
    """

    name: str
    path: Path
    facts: Facts
    template: str
    options: Mapping[str, Any]
    system: str
    digest: str
    size: int
    modified_ns: int
    seen: Seen
    capabilities: tuple[str, ...] = field(default=())
    messages: tuple[Message, ...] = ()
    licenses: tuple[str, ...] = ()
    parent: str = ""
    foreign: bool = False

    @property
    def key(self) -> str:
        """What must be equal for two names to share one runner."""
        return f"{self.path}\0{self.template}"

    @property
    def embeds(self) -> bool:
        """Is it an embedding model? Then it is loaded for that, and computes nothing else."""
        return "embedding" in self.capabilities

    @property
    def cache_width(self) -> int:
        """Numbers in the key-value cache for one token, in all layers together."""
        facts = self.facts
        heads = facts.number("attention.head_count") or 1
        groups = facts.number("attention.head_count_kv") or heads
        width = facts.number("embedding_length") // heads * groups
        return 0 if self.embeds else 2 * width * facts.number("block_count")


def capabilities(facts: Facts, template: str) -> tuple[str, ...]:
    """What the model can do, from its metadata and its chat template, as Ollama concludes it."""
    if f"{facts.architecture}.pooling_type" in facts.keys:
        return ("embedding",)
    found = ["completion"]
    if "tools" in template or "tool_call" in template:
        found.append("tools")
    if "suffix" in template:
        found.append("insert")
    if "enable_thinking" in template or ("<think>" in template and "</think>" in template):
        found.append("thinking")
    return tuple(found)
