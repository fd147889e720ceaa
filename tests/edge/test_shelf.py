"""What stays at the edge where there isn't room for all."""

from serve.edge.shelf import OVERHEAD_BYTES, Entry, Shelf


def entry(name: str, heat: float = 4.0, size: int = 100) -> Entry:
    value = bytes(size)
    return Entry(name, value, "m", "d", "f", name.encode(), "default", 1, 1, 0.0, 9.0, heat, 0.0)


def names(shelf: Shelf) -> list[str]:
    return sorted(shelf.entries)


def test_the_coldest_leave_and_are_counted() -> None:
    shelf = Shelf(1 << 20, 3)
    for name, heat in (("a", 5.0), ("b", 3.0), ("c", 9.0)):
        assert shelf.put(entry(name, heat))
    assert shelf.put(entry("d", 4.0))
    assert names(shelf) == ["a", "c", "d"]
    assert shelf.removed == 1
    assert shelf.held_bytes == 3 * (100 + OVERHEAD_BYTES)


def test_a_newcomer_that_is_the_coldest_costs_nobody_the_place() -> None:
    shelf = Shelf(1 << 20, 100)
    for number in range(100):
        assert shelf.put(entry(f"{number:03}", 10.0))
    assert not shelf.put(entry("new", 4.0))
    assert len(shelf.entries) == 100
    assert shelf.removed == 0


def test_a_big_one_takes_no_hotter_ones_places() -> None:
    shelf = Shelf(5 * (100 + OVERHEAD_BYTES), 100)
    for number, heat in enumerate((1.0, 2.0, 8.0, 8.0, 8.0)):
        assert shelf.put(entry(str(number), heat))
    assert not shelf.put(entry("big", 4.0, size=1200))
    assert names(shelf) == ["0", "1", "2", "3", "4"]
    assert shelf.put(entry("big", 4.0, size=500))
    assert names(shelf) == ["2", "3", "4", "big"]
    assert not shelf.put(entry("too big", 99.0, size=5000))


def test_what_has_left_is_known_until_its_last_hits_are_counted() -> None:
    shelf = Shelf(1 << 20, 100)
    assert shelf.put(entry("a"))
    shelf.keep(lambda _: False)
    assert shelf.known("a") is not None
    shelf.counted({"a": 3})
    assert shelf.known("a") is None
    assert shelf.entries == {}
    assert shelf.removed == 1
