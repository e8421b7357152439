"""A random sample of the answers of a run, from which the report draws a histogram of each output."""

from __future__ import annotations

import logging
from collections import Counter
from math import exp, floor, isfinite, log, log1p
from random import Random
from typing import TYPE_CHECKING, Any

import numpy as np

from fanout._escape import shortened
from fanout.report.recording import OutputSample

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fanout.results import ChunkResult
    from fanout.types import Values

_log = logging.getLogger("fanout")

# A share among 500 rows is right within 4.4 points (95 % confidence, the worst case of a share of one half).
_ROWS = 500
_FIRST = 10
_MOST_OUTPUTS = 12
_MOST_VALUES = 1000
"""Values of all outputs in a recording: some kilobytes."""

NOT_FINITE = "not finite"
"""Label that counts NaN and infinity among numbers."""

_MOST_LABELS = 20
_LONGEST_LABEL = 60
_LONGEST_CLASSES = 64
"""Longest vector that may hold a value for each class."""


class RowSample:
    """A uniform sample of the answered rows, drawn while they are written.

    Algorithm L (Li 1994, https://doi.org/10.1145/198429.198435) draws the distance to the next row of the sample, so
    that a chunk without such a row costs one comparison.

    Args:
        redact: removes secrets from a label.
    """

    def __init__(self, redact: Callable[[str], str]) -> None:
        self._redact = redact
        self._rows: list[dict[str, tuple[str, Any]]] = []
        self._seen = 0
        self._next = 0
        self._weight = 1.0
        self.first: dict[int, dict[str, Any]] = {}
        """The first rows of the sample: row to output name to value."""

        # A generator of its own, because the global one decides on the backoffs, which are repeatable by their seed.
        self._random = Random(0)
        self._failed = False

    def __call__(self, results: Sequence[ChunkResult]) -> None:
        """Take in chunks that were written."""
        try:
            for chunk in results:
                self._add(chunk)
        except Exception:  # noqa: BLE001 - outputs of any kind come here, and none may end the run
            if not self._failed:
                self._failed = True
                _log.exception("the report cannot sample the answers")

    def outputs(self) -> list[OutputSample]:
        """Return the sample by output."""
        rows = list(self._rows)
        names = list(dict.fromkeys(name for row in rows for name in row))[:_MOST_OUTPUTS]
        share = max(50, _MOST_VALUES // max(1, len(names)))
        return [self._output(name, [row[name] for row in rows[:share] if name in row]) for name in names]

    def _add(self, chunk: ChunkResult) -> None:
        if chunk.outputs is None:
            return
        # Failed rows hold fill values.
        rows = np.flatnonzero(chunk.ok) if chunk.failures or chunk.pending else None
        n_rows = chunk.stop - chunk.start if rows is None else len(rows)
        first, self._seen = self._seen, self._seen + n_rows
        while self._next < self._seen:
            place = self._next - first
            row = place if rows is None else int(rows[place])
            if len(self.first) < _FIRST:
                # A view of one row would keep the answers of its whole chunk in memory until the end of the run.
                self.first[chunk.start + row] = {
                    name: array[row : row + 1].copy()[0] for name, array in chunk.outputs.items()
                }
            self._take(chunk.outputs, row)

    def _take(self, outputs: Values, row: int) -> None:
        values = _values(outputs, row)
        if len(self._rows) < _ROWS:
            # No slot of the list is emptied again, so that another thread may copy it at any time.
            self._rows.append(values)
        else:
            self._rows[self._random.randrange(_ROWS)] = values
        self._next += 1
        if len(self._rows) == _ROWS:
            self._weight *= exp(log(1 - self._random.random()) / _ROWS)
            self._next += floor(log(1 - self._random.random()) / log1p(-self._weight))

    def _output(self, name: str, values: list[tuple[str, Any]]) -> OutputSample:
        # An output of mixed types, such as JSON texts beside None, is drawn by the form of its first row.
        form = values[0][0]
        data = [value for kind, value in values if kind == form]
        numbers: list[float] = []
        labels: dict[str, int] = {}
        if form == "text":
            counts = Counter(beginning for beginning, _ in data)
            # Texts that repeat are labels; others are shown by their lengths alone.
            if len(counts) <= _MOST_LABELS and 2 * len(counts) <= max(len(data), 4):
                form, labels = "label", self._labels(counts)
            else:
                numbers = [float(length) for _, length in data]
        elif form == "label":
            labels = self._labels(Counter(data))
        else:
            numbers = [_rounded(number) for number in data if isfinite(number)]
            if len(numbers) < len(data):
                labels = {NOT_FINITE: len(data) - len(numbers)}
        return OutputSample(name=self._redact(name), form=form, seen=self._seen, numbers=numbers, labels=labels)

    def _labels(self, counts: Counter[str]) -> dict[str, int]:
        shown = Counter[str]()
        for label, n in counts.most_common(_MOST_LABELS):
            shown[shortened(self._redact(label), _LONGEST_LABEL)] += n
        if rest := counts.total() - shown.total():
            shown["(other)"] += rest
        return dict(shown)


def _values(outputs: Values, row: int) -> dict[str, tuple[str, Any]]:
    """Return the form and the value of each output of a row."""
    values: dict[str, tuple[str, Any]] = {}
    for name, array in outputs.items():
        value = array[row]
        # Many models give the only value of a row in a list of one.
        if array.ndim > 1 and value.size == 1:
            value = value.reshape(())[()]
        if np.ndim(value) and array.dtype.kind in "biuf":
            values[name] = ("vector", float(np.linalg.norm(value.astype(np.float64))))
            # A vector this short may have a score for each class: a model that always chooses the same one shows here
            # at once.
            if array.ndim == 2 and 1 < array.shape[1] <= _LONGEST_CLASSES:
                values[f"{name}[]"] = ("top", float(np.argmax(value)))
        elif array.dtype.kind == "b":
            values[name] = ("label", "true" if value else "false")
        elif array.dtype.kind in "iuf":
            values[name] = ("number", float(value))
        elif isinstance(value, str):
            # A long text is kept by its beginning and its length, which is all that is shown of it.
            values[name] = ("text", (value[:_LONGEST_LABEL], len(value)))
        else:
            values[name] = ("label", type(value).__name__)
    return values


def _rounded(number: float) -> float:
    """Round to four digits, which a histogram cannot distinguish; a recording stays small."""
    return float(f"{number:.4g}")
