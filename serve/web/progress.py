"""The progress of one change on several model stores, as one stream in Ollama's form.

A line of a layer tells how far the slowest store is; a line that tells a step comes when all stores
have come to it; `success` comes once, at the end, and only if all have succeeded. If some have, the
error says which have it now: nothing is undone, and the same request again brings the rest.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

SUCCESS = "success"
Line = dict[str, Any]


class Store:
    """One store's part. `name` is what an error calls it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.steps: dict[str, None] = {}
        self.layers: dict[str, Line] = {}
        self.is_over = False
        self.has_succeeded = False
        self.error = ""

    def fail(self, error: str) -> None:
        """It will not succeed."""
        self.is_over, self.error = True, self.error or error

    def completed(self, digest: str, total: int) -> int:
        """Bytes of a layer that it has; a store that is past its layers has them all."""
        line = self.layers.get(digest)
        if self.is_over or (line is None and self.steps.keys() & _AFTER_LAYERS):
            return total
        return 0 if line is None else int(line.get("completed") or 0)


_AFTER_LAYERS = {"verifying sha256 digest", "writing manifest", SUCCESS}


class Progress:
    """What to tell, line by line."""

    def __init__(self, stores: Sequence[Store]) -> None:
        self._stores = list(stores)
        self._told: dict[str, int] = {}
        self._steps: dict[str, None] = {}

    def take(self, store: Store, raw: bytes) -> list[Line]:
        """A line of one store: what it makes to tell."""
        line = _decoded(raw)
        if "error" in line:
            store.fail(str(line["error"]))
            return self.steps()
        status = str(line.get("status", ""))
        if status == SUCCESS:
            store.is_over = store.has_succeeded = True
        if "digest" in line:
            store.layers[str(line["digest"])] = line
            return self._layer(line)
        store.steps[status] = None
        return self.steps()

    def steps(self) -> list[Line]:
        """The steps that all have come to now, but the last one."""
        ready = []
        for store in self._stores:
            for status in store.steps:
                if status in self._steps or status == SUCCESS:
                    continue
                if all(each.is_over or status in each.steps for each in self._stores):
                    self._steps[status] = None
                    ready.append({"status": status})
        return ready

    def _layer(self, line: Line) -> list[Line]:
        digest, total = str(line["digest"]), int(line.get("total") or 0)
        done = min(store.completed(digest, total) for store in self._stores)
        if done <= self._told.get(digest, -1):
            return []
        if not done and not all(one.is_over or digest in one.layers for one in self._stores):
            return []  # it may be there already: whoever hasn't come to it has not said
        self._told[digest] = done
        told = {key: value for key, value in line.items() if key != "completed"}
        return [told | ({"completed": done} if done else {})]

    def outcome(self, doing: str) -> Line:
        """The last line. `doing`: what was to be done, like `pull`."""
        failed = [store for store in self._stores if not store.has_succeeded]
        if not failed:
            return {"status": SUCCESS}
        if len({store.error for store in failed}) == 1 and len(failed) == len(self._stores):
            return {"error": failed[0].error}
        good = [store.name for store in self._stores if store.has_succeeded]
        faults = "; ".join(f"{store.name}: {store.error}" for store in failed)
        return {
            "error": f"{doing} reached {len(good)} of {len(self._stores)} model stores "
            f"({', '.join(good) or 'none'}) and failed on others; the same request again brings "
            f"the rest. {faults}"
        }


def _decoded(raw: bytes) -> Line:
    try:
        line = msgspec.json.decode(raw)
    except msgspec.DecodeError:
        line = None
    return line if isinstance(line, dict) else {"error": "a replica made no sense"}
