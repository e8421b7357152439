"""Summarize the rounds of an entry: medians, spread, and ratios to the base of its group.

A ratio is taken within each round, between processes that ran one after the other; the median is that of the ratios.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, TypeAlias

from benchmarks.measuring import Cost

if TYPE_CHECKING:
    from benchmarks.rounds import Measured

Quantity: TypeAlias = Callable[[Cost], float | None]

QUANTITIES: dict[str, Quantity] = {
    "cpu": lambda cost: cost.cpu / cost.units,
    "throughput": lambda cost: cost.units / cost.wall,
    "peak": lambda cost: cost.peak,
    "beyond": lambda cost: cost.beyond,
}
"""``cpu``: seconds per unit; ``throughput``: units per second; ``peak`` and ``beyond``: bytes, see `Cost`."""


@dataclass(frozen=True)
class Spread:
    """Median and range of the rounds."""

    median: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Line:
    """One entry: quantity -> its value, and its ratio to the base."""

    name: str
    rounds: int
    absolute: dict[str, Spread]
    ratio: dict[str, Spread]


def lines(measured: Measured) -> list[Line]:
    """Return a line for each entry that ran, in the order of the group."""
    base = measured.costs.get(measured.group.base)
    return [
        _line(entry.name, costs, base) for entry in measured.group.entries if (costs := measured.costs.get(entry.name))
    ]


def _line(name: str, costs: list[Cost], base: list[Cost] | None) -> Line:
    absolute, ratio = {}, {}
    for quantity, of in QUANTITIES.items():
        values = [value for cost in costs if (value := of(cost)) is not None]
        if len(values) == len(costs):
            absolute[quantity] = _spread(values)
        beside = [value for cost in base or () if (value := of(cost))]
        if beside and len(values) == len(beside):
            ratio[quantity] = _spread([a / b for a, b in zip(values, beside, strict=True)])
    return Line(name=name, rounds=len(costs), absolute=absolute, ratio=ratio)


def cpu_of(measured: Measured, name: str) -> Spread | None:
    """Return the CPU seconds per unit of one entry; None: it was not run."""
    costs = measured.costs.get(name)
    return _spread([cost.cpu / cost.units for cost in costs]) if costs else None


def ratio_between(measured: Measured, one: str, other: str) -> Spread | None:
    """Return the ratio of two entries' CPU, round by round; None: one of them was not run."""
    mine, theirs = measured.costs.get(one), measured.costs.get(other)
    if not mine or not theirs:
        return None
    pairs = zip(mine, theirs, strict=True)
    return _spread([(a.cpu / a.units) / (b.cpu / b.units) for a, b in pairs])


def _spread(values: list[float]) -> Spread:
    return Spread(median(values), min(values), max(values))
