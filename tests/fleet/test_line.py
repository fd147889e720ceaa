from hypothesis import given
from hypothesis import strategies as st

from serve.fleet.line import Line, Waiting
from tests.fleet.pools import wanted


def waiting(number: int, tenant: str) -> Waiting:
    want = wanted(tenant=tenant)
    return Waiting((1, number), want, want.key, 0.0, number)


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=30), st.data())
def test_serves_in_order_and_says_positions(tenants: list[str], data: st.DataObject) -> None:
    line = Line()
    for number, tenant in enumerate(tenants):
        line.add(waiting(number, tenant))
        order = [each.ticket for each in line.order()]
        position = line.position_of_last(tenant)
        assert position <= order.index((1, number)) + 1  # of equals it says the first
    while len(line):
        order = [each.ticket for each in line.order()]
        assert len(order) == len(line) == len(set(order)) == len(list(line))
        if data.draw(st.booleans()):
            assert line.serve(order[0]).ticket not in line
            assert [each.ticket for each in line.order()] == order[1:]
        else:
            line.leave(data.draw(st.sampled_from(order)))
    assert not line._lines
    assert not line._tenants


def test_tenants_that_have_gone_are_forgotten() -> None:
    line = Line()
    for number in range(5000):
        line.add(waiting(number, str(number)))
        line.serve((1, number))
    assert len(line._served) <= 1001


def test_tenants_that_are_owed_nothing_are_forgotten_while_others_wait() -> None:
    line = Line()
    for number in range(5000):
        line.add(waiting(number, str(number)))
        line.add(waiting(10_000 + number, "busy"))
        line.serve((1, number))
        if number:
            line.serve((1, 10_000 + number - 1))
    assert len(line._served) <= 1010
