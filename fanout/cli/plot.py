"""A plot of characters, small enough for a terminal and plain enough for a file."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

_HEIGHT = 10
_BEST = "*"


def plot(series: Mapping[str, Mapping[int, float]], *, best: tuple[str, int] | None, below: str) -> Iterator[str]:
    """The lines of a plot of several series over the same steps, which stand side by side whatever lies between them.

    Args:
        series: name -> step -> height; heights from 0 on. Each series has a letter, told under the plot.
        best: name and step of the point that is shown as a star.
        below: what the steps are.
    """
    letters = {name: chr(ord("a") + place % 26) for place, name in enumerate(series)}
    steps = sorted({step for points in series.values() for step in points})
    highest = max((height for points in series.values() for height in points.values()), default=0.0) or 1.0
    width = max(len(f"{step}") for step in steps) + 3
    rows = [[" "] * len(steps) for _ in range(_HEIGHT + 1)]
    for name, points in series.items():
        for step, height in points.items():
            _put(rows[round(_HEIGHT * height / highest)], steps.index(step), letters[name])
    if best is not None:
        name, step = best
        rows[round(_HEIGHT * series[name][step] / highest)][steps.index(step)] = _BEST
    yield from _drawn(rows, highest, width)
    margin = " " * len(rounded(highest))
    yield f"{margin}  {''.join(f'{step:>{width}}' for step in steps)}  {below}"
    yield f"{margin}  {'  '.join([f'{letter} {name}' for name, letter in letters.items()])}"


def rounded(value: float) -> str:
    """A whole number, with decimals where it is small."""
    return f"{value:,.0f}" if value >= 10 or not value else f"{value:.2f}"


def _put(row: list[str], place: int, letter: str) -> None:
    """Two that are at one place stand there together, as far as there is room."""
    row[place] = letter if row[place] == " " else (row[place] + letter)[:3]


def _drawn(rows: Sequence[Collection[str]], highest: float, width: int) -> Iterator[str]:
    margin = len(rounded(highest))
    for level in range(len(rows) - 1, -1, -1):
        label = rounded(highest * level / (len(rows) - 1)) if level % 5 == 0 else ""
        yield f"{label:>{margin}} |{''.join(f'{mark:>{width}}' for mark in rows[level])}".rstrip()
