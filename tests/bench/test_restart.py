"""The benchmark of a restarted shard, with few entries. It starts real shard processes."""

import pytest

from serve.bench.restart import restart
from serve.cache.store import OVERHEAD_BYTES
from serve.errors import ConfigError


def test_figures_of_a_shard_that_comes_back() -> None:
    found = restart(entries=300, say=lambda _: None)
    assert (found["entries"], found["lost"]) == (300, 0)
    first, every, packed = (found[n] for n in ("first_hit_s", "all_warm_s", "packed_bytes"))
    assert isinstance(first, float)
    assert isinstance(every, float)
    assert isinstance(packed, float)
    assert first > 0
    assert every > 0
    assert 300 < packed < 1300 + OVERHEAD_BYTES


def test_no_entries_are_nothing_to_report() -> None:
    with pytest.raises(ConfigError, match="at least one"):
        restart(entries=0, say=lambda _: None)
