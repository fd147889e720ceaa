from datetime import UTC, datetime

import pytest

from serve.wire.dates import day, may_print_date, prints_date, until_midnight_s

PLAIN = "{{ .System }} {{ .Prompt }}"
NOON = datetime(2026, 11, 23, 12, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    "template",
    [
        "Today is {{ currentDate }}",
        "{{ .CurrentDate }}",
        "{{ current_date }}",
        '{{ strftime_now("%d %b %Y") }}',
        "{% if not date_string is defined %}",
    ],
)
def test_templates_that_print_the_date(template: str) -> None:
    assert prints_date(template)
    assert may_print_date(template, "FROM x\n")


@pytest.mark.parametrize("template", [PLAIN, "", None, 7])
def test_templates_that_do_not(template: object) -> None:
    assert not prints_date(template)


def test_what_is_not_shown_may_print_it() -> None:
    assert not may_print_date(PLAIN, "FROM x\nTEMPLATE y\n")
    assert may_print_date("", "FROM x\n")
    assert may_print_date("{{ .Prompt }}", "FROM x\n")
    assert may_print_date(PLAIN, "FROM x\nRENDERER glimmer\n")


@pytest.mark.parametrize(
    ("offset_h", "date", "left_h"),
    [
        (0, "2026-11-23", 12),
        (12, "2026-11-24", 24),
        (-12, "2026-11-23", 24),
        (5.5, "2026-11-23", 6.5),
    ],
)
def test_the_day_is_that_of_the_zone(offset_h: float, date: str, left_h: float) -> None:
    offset_s = int(offset_h * 3600)
    assert day(NOON, offset_s) == date
    assert until_midnight_s(NOON, offset_s) == left_h * 3600
