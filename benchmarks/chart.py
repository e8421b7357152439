"""Draw bar charts as self-contained SVG, readable on light and dark backgrounds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from collections.abc import Sequence

_WIDTH = 760
_LABEL = 230
_FIGURE = 130
_BAR, _STEP, _HEAD, _GAP = 13, 20, 44, 14
_ROOM = _WIDTH - _LABEL - _FIGURE - 10

# Middle tones with a contrast of at least 4.5 to white and to #0d1117; the media queries choose better ones.
_STYLE = """
text { font: 12px system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; fill: #717a84 }
.title { font-size: 14px; font-weight: 600; fill: #717a84 }
.bar { fill: #8b949e } .ours { fill: #1f7ae0 } .ours-name { font-weight: 600 }
.base { stroke: #8b949e; stroke-dasharray: 3 3 } .spread { stroke: #717a84; stroke-width: 1.5 }
@media (prefers-color-scheme: light) {
  text { fill: #424a53 } .title { fill: #1f2328 } .bar { fill: #afb8c1 } .ours { fill: #0969da }
  .spread { stroke: #424a53 }
}
@media (prefers-color-scheme: dark) {
  text { fill: #b1bac4 } .title { fill: #e6edf3 } .bar { fill: #59636e } .ours { fill: #4493f8 }
  .spread { stroke: #d1d9e0 }
}
"""


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One line of a panel."""

    label: str
    value: float
    low: float
    high: float
    figure: str
    """Shown behind the bar."""

    ours: bool = False


@dataclass(frozen=True, kw_only=True)
class Panel:
    """Bars that are compared with each other."""

    title: str
    note: str
    bars: Sequence[Bar]
    most: float
    """Value at the end of the panel. A longer bar is cut there, with two strokes, and keeps its figure."""

    mark: float | None = None
    """Value with a dashed line."""


def drawn(panels: Sequence[Panel], description: str) -> str:
    """Return an SVG with the panels, one below the other."""
    height, parts = 0, []
    for panel in panels:
        parts += _panel(panel, height)
        height += _HEAD + _STEP * len(panel.bars) + _GAP
    size = f'width="{_WIDTH}" height="{height}" viewBox="0 0 {_WIDTH} {height}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img"><title>{escape(description)}</title>'
    return "\n".join([head, f"<style>{_STYLE}</style>", *parts, "</svg>\n"])


def _panel(panel: Panel, top: int) -> list[str]:
    parts = [
        f'<text class="title" x="0" y="{top + 16}">{escape(panel.title)}</text>',
        f'<text x="0" y="{top + 33}">{escape(panel.note)}</text>',
    ]
    first = top + _HEAD
    if panel.mark is not None:
        x = _x(panel.mark, panel.most)
        bottom = first + _STEP * len(panel.bars) - 4
        parts.append(f'<line class="base" x1="{x:.1f}" x2="{x:.1f}" y1="{first - 2}" y2="{bottom}"/>')
    for number, bar in enumerate(panel.bars):
        parts += _bar(bar, panel, first + _STEP * number)
    return parts


def _bar(bar: Bar, panel: Panel, y: int) -> list[str]:
    kind, most = "ours" if bar.ours else "bar", panel.most
    end = _x(bar.value, most)
    parts = [
        f'<text class="{kind}-name" x="{_LABEL - 8}" y="{y + 11}" text-anchor="end">{escape(bar.label)}</text>',
        f'<rect class="{kind}" x="{_LABEL}" y="{y}" width="{end - _LABEL:.1f}" height="{_BAR}" rx="2"/>',
        _cut(end - 16, y) if bar.value > most else _spread(_x(bar.low, most), _x(bar.high, most), y + _BAR / 2),
    ]
    # The figure stands behind the dashed line, which would strike it through.
    behind = max(_x(bar.high, most), _x(panel.mark or 0, most))
    return [*parts, f'<text x="{behind + 8:.1f}" y="{y + 11}">{escape(bar.figure)}</text>']


def _spread(low: float, high: float, y: float) -> str:
    return f'<line class="spread" x1="{low:.1f}" x2="{high:.1f}" y1="{y}" y2="{y}"/>'


def _cut(x: float, y: int) -> str:
    """Return two slanted strokes over the end of a bar that is longer than its panel."""
    return f'<path d="M{x:.1f} {y + _BAR + 2}l5 -{_BAR + 4}m4 0l-5 {_BAR + 4}" class="spread" fill="none"/>'


def _x(value: float, most: float) -> float:
    return _LABEL + _ROOM * min(value, most) / most
