"""Comparison of the values of one column: which rows differ, by how much, and which labels have changed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fanout._escape import shortened
from fanout.compare.tables import json_cell

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fanout.compare.tables import Column
    from fanout.types import Array

_LONGEST_LABEL = 60
# Free texts have no labels to count: the pairs beyond these are only counted together.
_MOST_CHANGES = 1000
_LONGEST_CLASSES = 64
"""Longest vector of floats whose largest element may be the label of its row."""

_LARGEST_EXACT = 2**53


class Tolerance(NamedTuple):
    """Two numbers agree if they differ by no more than ``atol + rtol * max(|a|, |b|)``. Integers agree if equal."""

    rtol: float
    atol: float


class LargestDifference(NamedTuple):
    """The row with the largest absolute difference of two numbers.

    Attributes:
        row: its id, or its number.
        difference: absolute.
    """

    row: str
    difference: float


@dataclass(slots=True)
class ColumnComparison:
    """The values of one column in the rows that have an answer on both sides.

    Attributes:
        name: of the column; ``A=B`` if the names differ.
        rows: rows compared.
        differing: rows whose values differ.
        largest: of all numbers; None if no two numbers differ.
        labels: rows that have a label: a text, an integer or a bool, or the position of the largest element of a
            vector of 2 to 64 floats.
        label_changes: rows whose label is another.
        changes: the label before and after, and the number of rows, for the pairs that came first.
    """

    name: str
    rows: int = 0
    differing: int = 0
    largest: LargestDifference | None = None
    labels: int = 0
    label_changes: int = 0
    changes: Counter[tuple[str, str]] = field(default_factory=Counter)

    def add(self, a: Column, b: Column, rows: Sequence[str], tolerance: Tolerance) -> Array:
        """Compare some rows; return the mask of those that differ, shape (rows,), bool."""
        a, b = as_array(a), as_array(b)
        if _are_numbers(a, b):
            differs, differences = _compare_arrays(np.asarray(a), np.asarray(b), tolerance)
        else:
            pairs = [_compare_values(x, y, tolerance) for x, y in zip(a, b, strict=True)]
            differs = np.array([pair[0] for pair in pairs], bool)
            differences = np.array([pair[1] for pair in pairs], float)
        self.rows += len(rows)
        self.differing += int(differs.sum())
        # NaN: no two numbers were compared.
        if len(differences) and not np.isnan(differences).all():
            place = int(np.nanargmax(differences))
            if differences[place] > (self.largest.difference if self.largest else 0.0):
                self.largest = LargestDifference(rows[place], float(differences[place]))
        self._count_labels(a, b, differs)
        return differs

    def _count_labels(self, a: Column, b: Column, differs: Array) -> None:
        if _are_numbers(a, b) and isinstance(a, np.ndarray) and a.ndim == 2 and 2 <= a.shape[1] <= _LONGEST_CLASSES:
            # Vectors of integers are no scores, so that the position of the largest one is no label.
            if a.dtype.kind != "f":
                return
            known = ~np.isnan(a).any(axis=1) & ~np.isnan(b).any(axis=1)
            first, second = np.argmax(a, axis=1), np.argmax(b, axis=1)
            self.labels += int(known.sum())
            places = np.flatnonzero(known & (first != second)).tolist()
            self._count_changes((str(first[i]), str(second[i])) for i in places)
            return
        if _are_numbers(a, b) and isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
            if a.ndim == 1 and "f" not in a.dtype.kind + b.dtype.kind:
                self.labels += len(a)
                self._count_changes((_label(a[i]), _label(b[i])) for i in np.flatnonzero(differs).tolist())
            return
        labelled = [i for i in range(len(a)) if _is_label(a[i]) and _is_label(b[i])]
        self.labels += len(labelled)
        self._count_changes((_label(a[i]), _label(b[i])) for i in labelled if differs[i])

    def _count_changes(self, changes: Any) -> None:
        for change in changes:
            self.label_changes += 1
            # Texts of a language model change in as many ways as there are rows.
            if change in self.changes or len(self.changes) < _MOST_CHANGES:
                self.changes[change] += 1


def as_array(column: Column) -> Column:
    """Return a column as an array of numbers if it is one; a missing number among floats is NaN."""
    if isinstance(column, np.ndarray):
        return column if column.dtype.kind in "biuf" else column.tolist()
    kinds = set(map(type, column))
    if kinds <= {float, type(None)} and float in kinds:
        return np.array([np.nan if value is None else value for value in column])
    # No array of numbers can be made of these, and trying would cost most of the time.
    if not kinds or kinds & {str, dict, type(None)}:
        return column
    try:
        array = np.array(column)
    # Lists of several lengths, or integers beyond 64 bits.
    except (ValueError, OverflowError):
        return column
    # A list of integers and floats makes an array of floats, which holds no integer beyond 2**53 exactly.
    is_mixed = int in kinds and array.dtype.kind == "f" and np.abs(array).max() > _LARGEST_EXACT
    return array if array.dtype.kind in "biuf" and not is_mixed else column


def _are_numbers(a: Column, b: Column) -> bool:
    return isinstance(a, np.ndarray) and isinstance(b, np.ndarray) and a.shape == b.shape


def _compare_arrays(a: Array, b: Array, tolerance: Tolerance) -> tuple[Array, Array]:
    """Return which rows differ, and the largest difference of each row; NaN where there is none."""
    axes = tuple(range(1, a.ndim))
    exact = a.dtype.kind != "f" and b.dtype.kind != "f"
    x, y = a.astype(float), b.astype(float)
    with np.errstate(invalid="ignore", over="ignore"):
        differences = np.abs(x - y)
        if exact:
            differs = a != b
        else:
            close = differences <= tolerance.atol + tolerance.rtol * np.maximum(np.abs(x), np.abs(y))
            # Infinities have no difference, and a tolerance of infinity would accept any number.
            finite = np.isfinite(x) & np.isfinite(y)
            differs = ~((close & finite) | (x == y) | (np.isnan(x) & np.isnan(y)))
    if axes:
        differs = differs.any(axis=axes)
        # `fmax` passes over NaN, so that one missing number does not hide the differences of the others.
        differences = np.fmax.reduce(differences.reshape(len(a), -1), axis=1, initial=np.nan)
    return differs, differences


def _compare_values(a: Any, b: Any, tolerance: Tolerance) -> tuple[bool, float]:
    """Return whether two values differ, and the largest difference of two numbers in them; NaN if there is none."""
    a, b = plain(a), plain(b)
    if a is None or b is None:
        # Formats without types write a missing value as an empty text, and JSON has no NaN.
        return not (a in (None, "") or a != a) or not (b in (None, "") or b != b), np.nan
    # One side is from a format without types: there a number is a text.
    if isinstance(a, str) != isinstance(b, str):
        a, b = (json_cell(one) if isinstance(one, str) else one for one in (a, b))
    elif isinstance(a, str) and a != b and a[:1] == b[:1] == "[":
        a, b = json_cell(a), json_cell(b)
    if _is_number(a) and _is_number(b):
        differs, differences = _compare_arrays(np.array([a]), np.array([b]), tolerance)
        return bool(differs[0]), float(differences[0])
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        return _combined([_compare_values(x, y, tolerance) for x, y in zip(a, b, strict=True)])
    if isinstance(a, Mapping) and isinstance(b, Mapping) and a.keys() == b.keys():
        return _combined([_compare_values(a[key], b[key], tolerance) for key in a])
    return a != b, np.nan


def _combined(pairs: Sequence[tuple[bool, float]]) -> tuple[bool, float]:
    differences = [difference for _, difference in pairs if difference == difference]
    return any(differs for differs, _ in pairs), max(differences, default=np.nan)


def plain(value: Any) -> Any:
    """Return a value of an output as JSON and formats without types have it."""
    value = value.tolist() if isinstance(value, np.ndarray | np.generic) else value
    # Times and decimals are texts in formats without types.
    return value if value is None or isinstance(value, str | int | float | list | Mapping) else str(value)


def _is_number(value: Any) -> bool:
    # numpy has no integers beyond 64 bits.
    return isinstance(value, float | bool) or (isinstance(value, int) and abs(value) < 2**63)


def _is_label(value: Any) -> bool:
    return isinstance(value, str | int | np.integer | np.bool_)


def _label(value: Any) -> str:
    return shortened(str(plain(value)), _LONGEST_LABEL)
