"""Write the report in Markdown, and the same figures as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from benchmarks.bounds import Bound, judged
from benchmarks.summary import Line, Spread, lines

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.rounds import Measured

SCHEMA_VERSION = 1
_MIB = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Circumstances:
    """The place and the conditions of the measurement."""

    date: str
    machine: dict[str, str]
    packages: dict[str, str]
    server: str
    pinned: bool
    rounds: int


def as_json(circumstances: Circumstances, every: Sequence[Measured]) -> dict[str, Any]:
    """Return everything, single rounds included; in seconds and bytes."""
    return {"schema_version": SCHEMA_VERSION, **asdict(circumstances), "groups": [_as_json(one) for one in every]}


def _as_json(measured: Measured) -> dict[str, Any]:
    return {
        "name": measured.group.name,
        "title": measured.group.title,
        "unit": measured.group.unit,
        "base": measured.group.base,
        "entries": [
            {**asdict(line), "costs": [asdict(cost) for cost in measured.costs[line.name]]} for line in lines(measured)
        ],
        "skipped": measured.skipped,
        "failed": measured.failed,
    }


def as_markdown(circumstances: Circumstances, every: Sequence[Measured]) -> str:
    """Return a table for each group."""
    parts = [_opening(circumstances), *map(_section, every), _bounds(every), _versions(circumstances)]
    return "\n\n".join(filter(None, parts)) + "\n"


def _opening(circumstances: Circumstances) -> str:
    machine = ", ".join(f"{key} {value}" for key, value in circumstances.machine.items())
    placing = (
        "the client on one core, the server on another" if circumstances.pinned else "client and server on any core"
    )
    return f"""# Benchmarks

{circumstances.date}. {machine}. Server: {circumstances.server}, on loopback; {placing}.
Every line is a process of its own, run in turn with the others of its table; medians of {circumstances.rounds} rounds,
least and most in brackets. Ratios (x) are to the first line, taken round by round. CPU is user and system time of all
threads of the client, in the timed part alone. Peak: most resident MiB; beyond: the part of it above the memory before
the workload and the array of answers. All answers were checked."""


def _section(measured: Measured) -> str:
    unit, title = measured.group.unit, measured.group.title
    head = f"## {measured.group.name}: {title}"
    table = [
        f"| | CPU per {unit} | x | {unit}s/s | x | peak MiB | x | beyond MiB |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
        *(_row(line) for line in lines(measured)),
    ]
    notes = [f"- {name}: not run, {reason}." for name, reason in measured.skipped.items()]
    notes += [f"- {name}: FAILED, {reason}." for name, reason in measured.failed.items()]
    shown = [head, "\n".join(table)] if measured.costs else [head]
    return "\n\n".join([*shown, *(["\n".join(notes)] if notes else [])])


def _row(line: Line) -> str:
    cells = [
        line.name,
        _with_spread(line.absolute.get("cpu"), duration),
        _with_spread(line.ratio.get("cpu"), _times),
        _median(line.absolute.get("throughput"), _rate),
        _median(line.ratio.get("throughput"), _times),
        _median(line.absolute.get("peak"), mebibytes),
        _median(line.ratio.get("peak"), _times),
        _median(line.absolute.get("beyond"), mebibytes),
    ]
    return f"| {' | '.join(cells)} |"


def _bounds(every: Sequence[Measured]) -> str:
    rows = [_bound(bound, measured) for bound, measured in judged(every)]
    if not rows:
        return ""
    head = ["| | CPU of | to that of | at most | is | held |", "|---|---|---|---:|---:|---|"]
    return "\n".join(["## Bounds for fanout", "", *head, *rows])


def _bound(bound: Bound, measured: Spread) -> str:
    shown = _times if bound.other else duration
    held = "yes" if measured.median <= bound.most else "**no**"
    cells = [bound.group, bound.one, bound.other or "-", shown(bound.most), _with_spread(measured, shown), held]
    return f"| {' | '.join(cells)} |"


def _versions(circumstances: Circumstances) -> str:
    return "Versions: " + ", ".join(f"{name} {number}" for name, number in circumstances.packages.items()) + "."


def _with_spread(spread: Spread | None, shown: Callable[[float], str]) -> str:
    if spread is None:
        return "-"
    return f"{shown(spread.median)} ({shown(spread.low)} to {shown(spread.high)})"


def _median(spread: Spread | None, shown: Callable[[float], str]) -> str:
    return "-" if spread is None else shown(spread.median)


def duration(seconds: float) -> str:
    """Format with three digits and a fitting unit."""
    if seconds < 1e-3:
        return f"{seconds * 1e6:.0f} us"
    return f"{seconds * 1e3:.{0 if seconds >= 0.1 else 1 if seconds >= 0.01 else 2}f} ms"


def mebibytes(size: float) -> str:
    """Format in MiB, without the unit."""
    return f"{size / _MIB:.0f}" if size >= 10 * _MIB else f"{size / _MIB:.1f}"


def _rate(units: float) -> str:
    return f"{units:,.0f}" if units >= 10 else f"{units:.1f}"


def _times(ratio: float) -> str:
    return f"{ratio:.2f}" if ratio < 10 else f"{ratio:.1f}"
