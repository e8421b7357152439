"""What the rounds of an entry come to: medians, spread, and ratios to the base of its group.

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
"""``cpu``: seconds a unit; ``throughput``: units a second; ``peak`` and ``beyond``: bytes, see `Cost`."""


@dataclass(frozen=True)
class Spread:
    """Of the rounds."""

    median: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Line:
    """One entry: quantity -> what it is, and what it is of the base's."""

    name: str
    rounds: int
    absolute: dict[str, Spread]
    ratio: dict[str, Spread]


def lines(measured: Measured) -> list[Line]:
    """Of all entries that were run, in the order of the group."""
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
    """CPU seconds a unit of one entry; None: it was not run."""
    costs = measured.costs.get(name)
    return _spread([cost.cpu / cost.units for cost in costs]) if costs else None


def ratio_between(measured: Measured, one: str, other: str) -> Spread | None:
    """CPU of one entry as a ratio to another's, round by round; None: one of them was not run."""
    mine, theirs = measured.costs.get(one), measured.costs.get(other)
    if not mine or not theirs:
        return None
    pairs = zip(mine, theirs, strict=True)
    return _spread([(a.cpu / a.units) / (b.cpu / b.units) for a, b in pairs])


def _spread(values: list[float]) -> Spread:
    return Spread(median(values), min(values), max(values))
