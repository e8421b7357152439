"""Upper bounds on the CPU time of fanout, as ratios to other entries of the same run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.groups import (
    BY_HAND,
    FANOUT,
    FLOOR,
    INTO_FILE,
    OPENAI,
    RUST,
    TEMPLATE,
    TRITON,
    WITH_JOURNAL,
)
from benchmarks.summary import Spread, cpu_of, ratio_between

if TYPE_CHECKING:
    from collections.abc import Iterable

    from benchmarks.rounds import Measured


@dataclass(frozen=True)
class Bound:
    """``one`` takes at most ``most`` times the CPU time of ``other``, or ``most`` seconds if ``other`` is None."""

    group: str
    one: str
    other: str | None
    most: float


BOUNDS = (
    Bound("W1", FANOUT, FLOOR, 0.95),
    Bound("W1", FANOUT, RUST, 1.5),
    Bound("W2", FANOUT, FLOOR, 0.9),
    Bound("W2", FANOUT, OPENAI, 0.08),
    Bound("W2f", FANOUT, RUST, 0.75),
    Bound("W3", FANOUT, RUST, 0.32),
    Bound("W3", FANOUT, BY_HAND, 0.1),
    Bound("W4", FANOUT, TRITON, 0.72),
    Bound("W5", FANOUT, FLOOR, 0.87),
    Bound("W5", TEMPLATE, FLOOR, 0.95),
    Bound("W6", FANOUT, FLOOR, 1.0),
    Bound("chunks", "map, 1,000,000 chunks", "map, 1,000 chunks", 1.05),
    Bound("chunks", "stream, 1,000,000 chunks", "stream, 1,000 chunks", 1.05),
    Bound("failures", "10% of the answers are a 503", "0% of the answers are a 503", 1.25),
    Bound("journal", WITH_JOURNAL, INTO_FILE, 1.05),
    Bound("predict", "predict, one request a row", "map, one request a row", 3.0),
    Bound("startup", "fanout --version", None, 0.12),
)


def judged(every: Iterable[Measured]) -> list[tuple[Bound, Spread]]:
    """Return every bound whose entries were measured, with the measured ratio or seconds."""
    by_name = {measured.group.name: measured for measured in every}
    results = []
    for bound in BOUNDS:
        if (measured := by_name.get(bound.group)) is None:
            continue
        spread = cpu_of(measured, bound.one) if bound.other is None else ratio_between(measured, bound.one, bound.other)
        if spread is not None:
            results.append((bound, spread))
    return results
