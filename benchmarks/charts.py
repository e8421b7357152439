"""Choose the bars to draw: one picture per quantity for the workloads, and one for the studies."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.chart import Bar, Panel, drawn
from benchmarks.report import duration, mebibytes
from benchmarks.summary import Line, lines
from benchmarks.workloads import NAMES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.rounds import Measured

_MOST = 3.0
"""Ratio at which bars are cut. A longer scale would hide the differences that matter."""


def pictures(every: Sequence[Measured]) -> dict[str, str]:
    """Return file name -> SVG. A picture without a bar is left out."""
    workloads = [one for one in every if one.group.name in NAMES and one.costs]
    studies = [one for one in every if one.group.name not in NAMES and one.costs]
    panels_of = {
        "cpu.svg": [_ratios(one, "cpu", f"CPU time per {one.group.unit}") for one in workloads],
        "memory.svg": [_ratios(one, "peak", "peak memory") for one in workloads],
        "studies.svg": [_ratios(one, "cpu", f"CPU time per {one.group.unit}") for one in studies],
    }
    description = "fanout and its peers: {} as a ratio to the first line of each panel, medians, with least and most"
    return {
        name: drawn([panel for panel in panels if panel.bars], description.format(name.removesuffix(".svg")))
        for name, panels in panels_of.items()
        if any(panel.bars for panel in panels)
    }


def _ratios(measured: Measured, quantity: str, meaning: str) -> Panel:
    known = [line for line in lines(measured) if quantity in line.ratio]
    highest = max((line.ratio[quantity].high for line in known), default=1.0)
    ours = {entry.name for entry in measured.group.entries if entry.ours}
    return Panel(
        title=f"{measured.group.name}: {measured.group.title}",
        note=f"{meaning}, less is better; 1 = {measured.group.base}",
        bars=[_ratio(line, quantity, ours=line.name in ours) for line in known],
        most=min(_MOST, highest) if measured.group.name in NAMES else highest,
        mark=1.0,
    )


def _ratio(line: Line, quantity: str, *, ours: bool) -> Bar:
    ratio, value = line.ratio[quantity], line.absolute[quantity].median
    amount = duration(value) if quantity == "cpu" else f"{mebibytes(value)} MiB"
    return Bar(
        label=line.name, value=ratio.median, low=ratio.low, high=ratio.high,
        figure=f"{ratio.median:.2f} ({amount})", ours=ours,
    )  # fmt: skip
