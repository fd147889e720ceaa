"""How often an engine may fail; time is a number."""

from serve.ollama.restarts import Restarts


def test_pauses_grow_and_too_many_failures_are_the_end() -> None:
    restarts = Restarts(3, 60)
    assert [restarts.failed("died", at) for at in (1, 2, 3, 4)] == [0, 0.5, 1, None]
    assert restarts.causes == {"died": 3}


def test_failures_outside_the_window_are_forgotten() -> None:
    restarts = Restarts(1, 60)
    for at in (0, 100, 200):
        restarts.forget(at, 0)
        assert restarts.failed("died", at) == 0


def test_the_time_until_a_wedge_was_noticed_is_not_lived() -> None:
    restarts = Restarts(2, 60)
    for at, pause in ((0, 0), (95, 0.5), (190, None)):
        restarts.forget(at, 90)
        assert restarts.failed("wedged", at) == pause
    assert restarts.causes == {"wedged": 2}
