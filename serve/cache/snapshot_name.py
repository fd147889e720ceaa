"""Names of snapshots: who wrote which, in which order, without opening any.

`rayllama-INDEX-of-COUNT-BEGAN-RUN-WRITTEN.cache`: the shard's number and how many there were, when
its process began and 32 random bits that tell it from all others, and when the file was begun
(both in milliseconds since the epoch). So two rollouts that write at once never write one file, and
the later run knows what the earlier one has left to it.
"""

import re
import secrets

from msgspec import Struct

from serve.cache.places import PART

_NAME = re.compile(r"rayllama-(\d{1,3})-of-(\d{1,3})-(\d{13})-([0-9a-f]{8})-(\d{13})\.cache")


class SnapshotName(Struct, frozen=True, order=True, gc=False):
    """One file's name. Ordered by when its run began and when it was written."""

    began_ms: int
    written_ms: int
    run: str
    index: int
    count: int

    def __str__(self) -> str:
        return (
            f"rayllama-{self.index}-of-{self.count}"
            f"-{self.began_ms:013}-{self.run}-{self.written_ms:013}.cache"
        )

    @property
    def shard(self) -> tuple[str, int, int]:
        """What has one current file at most: a run of a shard."""
        return self.run, self.index, self.count


def parse(name: str) -> SnapshotName | None:
    """The name taken apart, or None for a file that is none of ours."""
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    index, count, began_ms, run, written_ms = found.groups()
    return SnapshotName(int(began_ms), int(written_ms), run, int(index), int(count))


def parse_part(name: str) -> SnapshotName | None:
    """The same for a file that was not finished."""
    return parse(name.removesuffix(PART)) if name.endswith(PART) else None


def new_run() -> str:
    """What tells this process from all others that write for the same shard."""
    return secrets.token_hex(4)
