"""Axes: round ticks, and numbers and times as people read them."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, floor, isfinite, log10

_STEPS = (1, 2, 2.5, 5, 10)
_MINUTE, _HOUR, _DAY = 60.0, 3600.0, 86400.0


@dataclass(frozen=True, slots=True)
class Scale:
    """A linear or logarithmic map of values to positions.

    Attributes:
        low, high: values at the two ends.
        start, stop: positions of the two ends.
        log: logarithmic; both values are above 0 then.
    """

    low: float
    high: float
    start: float
    stop: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Return the position of a value, rounded to a tenth; beyond the ends, that of the end."""
        low, high = self.low, self.high
        if self.log:
            value, low, high = log10(max(value, low)), log10(low), log10(high)
        # An axis on which all values are equal has them in its middle.
        share = (value - low) / (high - low) if high > low else 0.5
        return round(self.start + min(1.0, max(0.0, share)) * (self.stop - self.start), 1)

    def ticks(self, most: int = 5) -> list[float]:
        """Return round values within the ends."""
        return _log_ticks(self.low, self.high, most) if self.log else linear_ticks(self.low, self.high, most)


def linear_ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Return at most ``most`` + 1 multiples of a round number from ``low`` to ``high``."""
    if not high > low:
        return [low]
    raw = (high - low) / most
    power = 10.0 ** floor(log10(raw))
    # The factors next to 1 here and below make up for rounding: 0.3 / 0.1 is not 3.
    step = next(step * power for step in _STEPS if step * power >= raw * (1 - 1e-9))
    first, last = ceil(low / step - 1e-9), floor(high / step + 1e-9)
    return [float(f"{n * step:.10g}") for n in range(first, last + 1)]


def _log_ticks(low: float, high: float, most: int) -> list[float]:
    decades = range(floor(log10(low)), ceil(log10(high)) + 1)
    # As many ticks in a decade as there is room for: over many decades the powers of ten alone.
    for factors in ((1, 2, 5), (1, 3), (1,)):
        ticks = [factor * 10.0**power for power in decades for factor in factors]
        ticks = [tick for tick in ticks if low * (1 - 1e-9) <= tick <= high * (1 + 1e-9)]
        if len(ticks) <= most:
            break
    return ticks[:: max(1, ceil(len(ticks) / most))]


def round_above(value: float) -> float:
    """Return a round number that is not below ``value``, for the end of an axis from 0."""
    if not (isfinite(value) and value > 0):
        return 1.0
    power = 10.0 ** floor(log10(value))
    return float(f"{next(step * power for step in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if step * power >= value):.10g}")


def number(value: float) -> str:
    """Return a number with at most three or four digits that count: ``12,300``, ``4.56``, ``1.2e-07``."""
    if value == 0 or not isfinite(value):
        return "0" if value == 0 else str(value)
    # From here on a float has no decimals left, and digits in groups of three are no longer readable.
    if abs(value) >= 1e15 or abs(value) < 1e-4:
        return f"{value:.2g}"
    if abs(value) >= 100 or value == round(value):
        return f"{value:,.0f}"
    return f"{value:.3g}"


def short_number(value: float) -> str:
    """Return a number for an axis, where there is little room: ``1.5M``."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if letter == 'k' else size):.4g}{letter}"
    return number(value)


def duration(seconds: float) -> str:
    """Return a duration in words: ``250 ms``, ``1.5 s``, ``2 min 5 s``, ``3 h 20 min``."""
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms"
    # Up to two minutes people count in seconds.
    if seconds < 2 * _MINUTE:
        return f"{seconds:.3g} s"
    big, small, names = (_MINUTE, 1.0, ("min", "s")) if seconds < 2 * _HOUR else (_HOUR, _MINUTE, ("h", "min"))
    n_big, rest = divmod(round(seconds / small), round(big / small))
    return f"{n_big:,} {names[0]} {rest} {names[1]}" if rest else f"{n_big:,} {names[0]}"


def time_unit(seconds: float) -> tuple[float, str]:
    """Return the unit for an axis of so many seconds: its length in seconds, and its name."""
    if seconds < 3 * _MINUTE:
        return 1.0, "s"
    if seconds < 3 * _HOUR:
        return _MINUTE, "min"
    return (_HOUR, "h") if seconds < 3 * _DAY else (_DAY, "days")


def size(n_bytes: float) -> str:
    """Return a number of bytes in words."""
    for unit, name in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if n_bytes >= unit:
            return f"{n_bytes / unit:.3g} {name}"
    return f"{n_bytes:.0f} bytes"
