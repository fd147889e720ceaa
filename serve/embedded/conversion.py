"""The process that converts the embedding model, and prints where it put it."""

import sys
from pathlib import Path

from serve.embedded.bert_gguf import REVISION, convert
from serve.embedded.store import Store


def run(folder: str, store: str, digest: str) -> int:
    """Converts the model in `folder`, whose weights have that sha256, unless the store has it."""
    name = f"all-minilm-{digest[:16]}-{REVISION}.gguf"
    path = Store(Path(store)).made_once(name, lambda target: convert(Path(folder), target))
    sys.stdout.write(f"{path}\n")
    return 0
