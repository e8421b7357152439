"""Charts as inline SVG: lines over time, histograms, and tables with bars.

Every chart is a figure whose title is the question that it answers, with a sentence of summary, and a table of the same
numbers for screen readers and for copying. Colours are classes of the style sheet, so that light, dark and printed
pages share one drawing. There is no script: pointing at a chart shows the values by the browser's own tooltip.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, TypeAlias

from fanout._escape import escaped, escaped_lines
from fanout.report.scales import Scale, duration, number, round_above, short_number, time_unit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

# The style sheet has as many colours of lines that readers can distinguish, on light, dark and printed pages.
MOST_SERIES = 6

_WIDTH, _HEIGHT = 560, 250
# In units of the view box. The left margin holds a tick such as 1,234.5, the bottom the ticks and the axis' label.
_LEFT, _RIGHT, _TOP, _BOTTOM = 66, 18, 30, 46

# With this many points or fewer each is marked: a single one would be invisible in a line.
_MARKED = 30
# The recording of a long run has thousands of moments, and the page has to stay small enough to be mailed.
_TABLE_ROWS = 40
_TOOLTIPS = 120

Point: TypeAlias = tuple[float, float | None]
"""Position and value; None interrupts the line."""


def text(value: object) -> str:
    """Escape a text for HTML; control characters are made visible."""
    return escape(escaped(str(value)))


@dataclass(frozen=True, slots=True)
class Series:
    """Values over time."""

    name: str
    points: Sequence[Point]
    """Time in seconds, and value."""

    steps: bool = False
    """A value holds since the point before it."""


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of time that a chart shades, such as a pause."""

    start: float
    stop: float
    label: str


@dataclass(frozen=True, slots=True)
class TimeChart:
    """A chart of up to six series over the time of the run.

    Attributes:
        question: title.
        unit: of the values; the label of the y axis.
        end: last time in seconds.
        resumed: times at which a session began.
        log: logarithmic values.
        spans: pauses.
        marks: time and label of further moments, such as the opening of a circuit.
        show: value to text.
    """

    question: str
    summary: str
    unit: str
    series: Sequence[Series]
    end: float
    resumed: Sequence[float] = ()
    log: bool = False
    spans: Sequence[Span] = ()
    marks: Sequence[tuple[float, str]] = ()
    show: Callable[[float], str] = field(default=number)

    def html(self) -> str:
        series = self.series[:MOST_SERIES]
        unit_seconds, unit_name = time_unit(self.end)
        x = Scale(0, max(self.end, 1e-6) / unit_seconds, _LEFT, _WIDTH - _RIGHT)
        y = self._value_scale(series)
        body = [
            *_axes(x, y, f"time in {unit_name}", self.unit, self.show if self.log else short_number),
            *self._moments(x, unit_seconds),
            *(_line(one, n, x, y, unit_seconds) for n, one in enumerate(series, 1)),
            *self._tooltips(series, x, unit_seconds),
        ]
        return figure(self.question, self.summary, svg(self.question, body), self._legend(series), self._table(series))

    def _value_scale(self, series: Sequence[Series]) -> Scale:
        values = [value for one in series for _, value in one.points if value is not None]
        if not self.log:
            return Scale(0, round_above(max(values, default=0)), _HEIGHT - _BOTTOM, _TOP)
        # A logarithmic axis has no place for 0.
        positive = [value for value in values if value > 0] or [1.0]
        # Some room at both ends keeps the extremes off the frame.
        return Scale(min(positive) * 0.8, max(positive) * 1.25, _HEIGHT - _BOTTOM, _TOP, log=True)

    def _moments(self, x: Scale, unit: float) -> Iterator[str]:
        """Draw pauses as bands, circuit openings as marks and the beginnings of sessions as lines."""
        bottom, height = _HEIGHT - _BOTTOM, _HEIGHT - _BOTTOM - _TOP
        # A pause of a moment would be narrower than a pixel without the least width.
        for span in self.spans:
            start, stop = x(span.start / unit), x(span.stop / unit)
            yield (
                f'<rect class="pause" x="{start}" y="{_TOP}" width="{max(1.5, stop - start):.1f}" height="{height}">'
                f"<title>{text(span.label)}</title></rect>"
            )
        for when in self.resumed:
            place = x(when / unit)
            yield f'<path class="resumed" d="M{place} {_TOP}V{bottom}"/>'
            yield f'<text class="note" x="{place + 4}" y="{_TOP + 10}">resumed</text>'
        for when, label in self.marks:
            place = x(when / unit)
            yield (
                f'<path class="mark" d="M{place} {bottom}V{_TOP + 6}l-5 -8h10l-5 8"><title>{text(label)}</title></path>'
            )

    def _tooltips(self, series: Sequence[Series], x: Scale, unit: float) -> Iterator[str]:
        """Draw invisible columns whose titles show the values."""
        moments = _thinned([when for when, _ in series[0].points] if series else [], _TOOLTIPS)
        values = [dict(one.points) for one in series]
        # Each column reaches halfway to its neighbours, so that every place of the chart shows some values.
        for n, when in enumerate(moments):
            before, after = moments[max(0, n - 1)], moments[min(len(moments) - 1, n + 1)]
            left, right = x((before + when) / 2 / unit), x((when + after) / 2 / unit)
            shown = [
                f"{one.name}: {self.show(value)}"
                for one, known in zip(series, values, strict=True)
                if (value := known.get(when)) is not None
            ]
            title = "\n".join([f"after {duration(when)}", *shown])
            yield (
                f'<rect class="hit" x="{left}" y="{_TOP}" width="{max(1.0, right - left):.1f}" '
                f'height="{_HEIGHT - _TOP - _BOTTOM}"><title>{escape(escaped_lines(title))}</title></rect>'
            )

    def _legend(self, series: Sequence[Series]) -> str:
        entries = [_key(f"line s{n}", "M0 6H22", one.name) for n, one in enumerate(series, 1)] if series else []
        if self.spans:
            entries.append(_key("pause", "M2 0H20V12H2Z", "pause"))
        if self.marks:
            entries.append(_key("mark", "M11 12V4l-5 -4h10l-5 4", "circuit opened"))
        return f'<ul class="legend">{"".join(entries)}</ul>' if len(entries) > 1 else ""

    def _table(self, series: Sequence[Series]) -> str:
        moments = _thinned([when for when, _ in series[0].points] if series else [], _TABLE_ROWS)
        values = [dict(one.points) for one in series]
        rows = [
            [duration(when), *(self.show(value) if (value := known.get(when)) is not None else "" for known in values)]
            for when in moments
        ]
        return table([f"{self.unit} after", *(one.name for one in series)], rows)


@dataclass(frozen=True, slots=True)
class Histogram:
    """A histogram: how many fall between two edges.

    Attributes:
        edges: bounds of the bins, ascending; one more than ``heights``.
        heights: value of each bin.
        unit: of the edges; the label of the x axis.
        height_unit: the label of the y axis.
        marks: value and label of lines, such as percentiles.
        show: edge to text.
    """

    question: str
    summary: str
    edges: Sequence[float]
    heights: Sequence[float]
    unit: str
    height_unit: str
    log: bool = False
    marks: Sequence[tuple[float, str]] = ()
    show: Callable[[float], str] = field(default=number)

    def html(self) -> str:
        x = Scale(self.edges[0], self.edges[-1], _LEFT, _WIDTH - _RIGHT, log=self.log)
        y = Scale(0, round_above(max(self.heights)), _HEIGHT - _BOTTOM, _TOP)
        bins = list(zip(self.edges, self.edges[1:], self.heights, strict=False))
        body = [*_axes(x, y, self.unit, self.height_unit, short_number, self.show)]
        for low, high, height in bins:
            left, top = x(low), y(height)
            title = f"{self.show(low)} to {self.show(high)}: {number(height)} {self.height_unit}"
            body.append(
                f'<rect class="bar" x="{left}" y="{top}" width="{max(1.0, x(high) - left - 1):.1f}" '
                f'height="{_HEIGHT - _BOTTOM - top:.1f}"><title>{text(title)}</title></rect>'
            )
        for n, (value, label) in enumerate(self.marks):
            place = x(value)
            body.append(f'<path class="mark-line" d="M{place} {_TOP}V{_HEIGHT - _BOTTOM}"/>')
            # The labels stand one below the other, because the lines may be close, and left of a line near the end.
            at_end = place > 0.8 * _WIDTH
            css, at = ("note end", place - 4) if at_end else ("note", place + 4)
            body.append(f'<text class="{css}" x="{at:.1f}" y="{_TOP + 10 + 18 * n}">{text(label)}</text>')
        rows = [[f"{self.show(low)} to {self.show(high)}", number(height)] for low, high, height in bins if height]
        return figure(
            self.question, self.summary, svg(self.question, body), "", table([self.unit, self.height_unit], rows)
        )


def bar_table(question: str, summary: str, headers: Sequence[str], rows: Sequence[tuple[Sequence[str], float]]) -> str:
    """Return a figure of rows with a bar each.

    Args:
        headers: of the columns; the last one is that of the bars.
        rows: cells, and a share from 0 to 1. The bar of the largest share is the longest.
    """
    # All shares may be 0, as those of endpoints that received no request.
    largest = max((share for _, share in rows), default=0) or 1.0
    lines = (
        f'{_cells(cells)}<td class="bar-cell"><svg aria-hidden="true" class="bar-box"><rect class="bar" height="12" '
        f'rx="2" width="{max(0.5, 100 * share / largest):.1f}%"/></svg><span>{100 * share:.3g} %</span></td>'
        for cells, share in rows
    )
    return figure(question, summary, _table(headers, lines), wide=len(headers) > 2)


def figure(question: str, summary: str, content: str, legend: str = "", data: str = "", *, wide: bool = False) -> str:
    """Return a figure with its title, summary and data; a ``wide`` one takes both columns of the page."""
    details = f"<details><summary>Numbers</summary>{data}</details>" if data else ""
    opening = '<figure class="wide">' if wide else "<figure>"
    return (
        f"{opening}<figcaption><h3>{text(question)}</h3><p>{text(summary)}</p></figcaption>"
        f"{legend}{content}{details}</figure>"
    )


def svg(label: str, body: Sequence[str]) -> str:
    """Return a drawing. Screen readers announce it as an image with this label."""
    return (
        f'<svg class="chart" role="img" aria-label="{text(label)}" viewBox="0 0 {_WIDTH} {_HEIGHT}">'
        f"{''.join(body)}</svg>"
    )


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table whose first column has the names of the rows."""
    return _table(headers, map(_cells, rows))


def _table(headers: Sequence[str], rows: Iterable[str]) -> str:
    head = "".join(f'<th scope="col">{text(name)}</th>' for name in headers)
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _cells(cells: Sequence[str]) -> str:
    first, *rest = cells
    return f'<th scope="row">{text(first)}</th>' + "".join(f"<td>{text(cell)}</td>" for cell in rest)


def _axes(
    x: Scale,
    y: Scale,
    x_label: str,
    y_label: str,
    show_y: Callable[[float], str],
    show_x: Callable[[float], str] = short_number,
) -> Iterator[str]:
    bottom = _HEIGHT - _BOTTOM
    for tick in y.ticks(4):
        place = y(tick)
        yield f'<path class="grid" d="M{_LEFT} {place}H{_WIDTH - _RIGHT}"/>'
        yield f'<text class="tick end" x="{_LEFT - 8}" y="{place + 4}">{text(show_y(tick))}</text>'
    yield f'<path class="axis" d="M{_LEFT} {bottom}H{_WIDTH - _RIGHT}"/>'
    for tick in x.ticks(5):
        place = x(tick)
        yield f'<path class="axis" d="M{place} {bottom}v4"/>'
        yield f'<text class="tick middle" x="{place}" y="{bottom + 19}">{text(show_x(tick))}</text>'
    yield f'<text class="label end" x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 6}">{text(x_label)}</text>'
    yield f'<text class="label" x="4" y="{_TOP - 14}">{text(y_label)}</text>'


def _line(series: Series, n: int, x: Scale, y: Scale, unit: float) -> str:
    """Draw a series as a path, with dots where it has few points."""
    parts: list[str] = []
    dots: list[str] = []
    pen_down = False
    for when, value in series.points:
        # No line leads over a gap, such as that between two sessions.
        if value is None:
            pen_down = False
            continue
        px, py = x(when / unit), y(value)
        if not pen_down:
            parts.append(f"M{px} {py}")
        elif series.steps:
            parts.append(f"V{py}H{px}")
        else:
            parts.append(f"L{px} {py}")
        pen_down = True
        dots.append(f'<circle class="dot f{n}" cx="{px}" cy="{py}" r="2.5"/>')
    shown = "".join(dots) if len(dots) <= _MARKED and not series.steps else ""
    return f'<path class="line s{n}" d="{"".join(parts)}"/>{shown}' if parts else ""


def _key(css: str, drawing: str, name: str) -> str:
    return f'<li><svg aria-hidden="true" viewBox="0 0 22 12"><path class="{css}" d="{drawing}"/></svg>{text(name)}</li>'


def _thinned(values: Sequence[float], most: int) -> list[float]:
    """Return at most ``most`` of the values, the last one included."""
    distinct = list(dict.fromkeys(values))
    if len(distinct) <= most:
        return distinct
    return [distinct[round(n * (len(distinct) - 1) / (most - 1))] for n in range(most)]
