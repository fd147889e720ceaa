"""The few statistics that the benchmarks report."""

from collections.abc import Sequence
from statistics import median, quantiles


def p50_ms(seconds: Sequence[float]) -> float:
    """The median, in milliseconds."""
    return median(seconds) * 1e3


def p99_ms(seconds: Sequence[float]) -> float:
    """The 99th percentile, in milliseconds."""
    return quantiles(seconds, n=100, method="inclusive")[98] * 1e3


def rounded(figures: dict[str, float | str | None]) -> dict[str, float | str | None]:
    """With as many digits as a figure is worth."""
    return {
        name: round(value, 4 if abs(value) < 10 else 1) if isinstance(value, float) else value
        for name, value in figures.items()
    }
