"""Charts of the answers: a histogram of each numeric output, and the counts of labels. A broken model shows at once."""

from __future__ import annotations

from collections import defaultdict
from math import ceil, log2
from typing import TYPE_CHECKING

import numpy as np

from fanout.report.charts import Histogram, bar_table
from fanout.report.row_sample import NOT_FINITE
from fanout.report.scales import number

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fanout.report.recording import OutputSample, RecordedSession

_MOST_VALUES = 12
"""Different integers that are counted one by one."""

_UNITS = {"number": "value", "vector": "Euclidean norm", "text": "characters"}


def answer_charts(sessions: Sequence[RecordedSession]) -> list[str]:
    """Return a figure for each output, of the samples of all sessions."""
    samples: dict[str, list[OutputSample]] = {}
    for one in sessions:
        for output in one.totals.outputs if one.totals else ():
            samples.setdefault(output.name, []).append(output)
    return [_chart(name, parts) for name, parts in samples.items() if any(part.seen for part in parts)]


def _chart(name: str, parts: Sequence[OutputSample]) -> str:
    form = parts[-1].form
    parts = [part for part in parts if part.form == form]
    shown = f"output “{name.removesuffix('[]')}”" if name.removesuffix("[]") else "the output"
    n_sampled = sum(len(part.numbers) + sum(part.labels.values()) for part in parts)
    n_rows = sum(part.seen for part in parts)
    sampled = f"A random sample of {n_sampled:,} of {n_rows:,} rows." if n_sampled < n_rows else f"All {n_rows:,} rows."
    if form == "label":
        return _label_chart(f"How often does {shown} have each value?", sampled, _weighted_labels(parts))
    values, weights = _weighted_numbers(parts)
    if form == "top":
        question = f"At which position does {shown} have its largest element?"
        return _label_chart(question, sampled, _counted(values, weights))
    not_finite = sum(part.labels.get(NOT_FINITE, 0) for part in parts)
    warning = f" {not_finite:,} of them are NaN or infinite." if not_finite else ""
    if not len(values):
        return _label_chart(f"How are the values of {shown} distributed?", sampled + warning, {NOT_FINITE: 1.0})
    if form == "number" and np.all(values == np.round(values)) and len(np.unique(values)) <= _MOST_VALUES:
        return _label_chart(f"How often does {shown} have each value?", sampled + warning, _counted(values, weights))
    subject = {"vector": f"the lengths of the vectors of {shown}", "text": f"the lengths of the texts of {shown}"}
    question = f"How are {subject.get(form, f'the values of {shown}')} distributed?"
    return _histogram(question, sampled + warning, values, weights, _UNITS.get(form, "value"))


def _histogram(question: str, summary: str, values: np.ndarray, weights: np.ndarray, unit: str) -> str:
    low, high = float(values.min()), float(values.max())
    if low == high:
        return _label_chart(question, f"{summary} All values are {number(low)}.", {number(low): 1.0})
    # Sturges' rule, with more bins because a report is to show gaps and spikes.
    n_bins = min(40, 2 * ceil(log2(len(values)) + 1))
    heights, edges = np.histogram(values, bins=n_bins, weights=weights)
    shares = 100 * heights / weights.sum()
    middle = float(np.median(values))
    text = f"{summary} From {number(low)} to {number(high)}, median {number(middle)}."
    return Histogram(question, text, edges.tolist(), shares.tolist(), unit, "% of rows").html()


def _label_chart(question: str, summary: str, shares: dict[str, float]) -> str:
    whole = sum(shares.values()) or 1.0
    rows = [([label or "(empty)"], share / whole) for label, share in shares.items()]
    if len(rows) == 1 and "All values" not in summary:
        summary += " There is only one value."
    return bar_table(question, summary, ["value", "share of rows"], rows)


def _weighted_numbers(parts: Sequence[OutputSample]) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers of all sessions, and the rows that each stands for."""
    values = np.array([value for part in parts for value in part.numbers])
    weights = [part.seen / max(1, len(part.numbers)) for part in parts for _ in part.numbers]
    return values, np.array(weights)


def _weighted_labels(parts: Sequence[OutputSample]) -> dict[str, float]:
    shares: defaultdict[str, float] = defaultdict(float)
    for part in parts:
        for label, n in part.labels.items():
            shares[label] += n * part.seen / max(1, sum(part.labels.values()))
    return dict(sorted(shares.items(), key=lambda item: -item[1]))


def _counted(values: np.ndarray, weights: np.ndarray) -> dict[str, float]:
    return {number(float(value)): float(weights[values == value].sum()) for value in np.unique(values)}
