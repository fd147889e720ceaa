"""How many replicas a pool needs."""

import warnings

import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Ray Serve's own, of pydantic
    from deployments.autoscaling import SlotPolicy, wanted


@pytest.mark.parametrize(
    ("waiting", "at_work", "slots", "target", "replicas"),
    [
        (0, 0, 4, 0.7, 0),
        (1, 0, 4, 0.7, 1),
        (0, 4, 4, 1, 1),
        (1, 4, 4, 1, 2),
        (0, 3, 4, 0.7, 2),
        (100, 8, 8, 1, 14),
    ],
)
def test_replicas_bring_the_load_of_a_slot_down_to_the_target(
    waiting: int, at_work: int, slots: int, target: float, replicas: int
) -> None:
    assert wanted(waiting, at_work, slots, target) == replicas


class Context:
    """As much of Serve's `AutoscalingContext` as the policy reads. A fake: no controller."""

    app_name = "app"

    def __init__(self, target: int, requests: float, state: dict[str, object]) -> None:
        self.target_num_replicas = target
        self.total_num_requests = requests
        self.policy_state = state


class FakeFigures:
    """Says what it was told to."""

    def __init__(self, waiting: int, at_work: int) -> None:
        self.said = waiting, at_work

    def last(self) -> tuple[int, int]:
        return self.said


def policy(waiting: int, at_work: int, *, delay_s: float = 0) -> SlotPolicy:
    made = SlotPolicy("", slots=2, target_load=1, upscale_delay_s=delay_s)
    made._figures = FakeFigures(waiting, at_work)  # type: ignore[assignment]
    return made


def decided(made: SlotPolicy, target: int, requests: float = 0) -> int:
    return made(Context(target, requests, {}))[0]


def test_who_waits_is_seen_from_nothing_without_delay() -> None:
    assert decided(policy(1, 0, delay_s=60), target=0) == 1


def test_more_are_wanted_for_a_while_before_there_are_more() -> None:
    made = policy(9, 2, delay_s=60)
    number, state = made(Context(1, 0, {}))
    assert number == 1
    (since,) = state.values()
    earlier = dict.fromkeys(state, since - 61)
    assert made(Context(1, 0, earlier))[0] == 6
    assert made(Context(6, 0, earlier))[1] == {}


def test_fewer_is_said_at_once_and_what_serve_counts_is_a_floor() -> None:
    assert decided(policy(0, 1), target=5) == 1
    assert decided(policy(0, 0), target=5, requests=3) == 2
