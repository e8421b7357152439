"""The command ``fanout compare``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from fanout._escape import escaped, shortened
from fanout.cli.output import print_error, print_json, print_text
from fanout.compare import compare_outputs
from fanout.errors import ConfigError
from fanout.job import SCHEMA_VERSION

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from fanout.compare import ColumnComparison, Comparison

_CHANGES_SHOWN = 5
_LONGEST_VALUE = 120


def compare_command(a: Path, b: Path, options: Mapping[str, Any], *, as_json: bool) -> int:
    """Print how two outputs differ. Returns the exit code: 1 if they do. ``options`` are `compare_outputs`'."""
    try:
        comparison = compare_outputs(a, b, **options)
    except ConfigError as error:
        return print_error(str(error), 2, as_json=as_json)
    exit_code = 0 if comparison.agree else 1
    if as_json:
        print_json({"schema_version": SCHEMA_VERSION, **comparison.as_dict(), "exit_code": exit_code})
    else:
        print_text("\n".join(map(escaped, _lines(comparison))))
    return exit_code


def _lines(one: Comparison) -> Iterator[str]:
    share = "" if one.agreement is None else f" ({_percent(one.agreement)})"
    unanswered = f"; {one.unanswered:,} of them have no answer on either side" if one.unanswered else ""
    agreeing = one.rows - one.differing
    yield f"{one.rows:,} rows matched by {one.by}: {agreeing:,} agree, {one.differing:,} differ{share}{unanswered}"
    for path, rows, answered, columns in (
        (one.a, one.only_a, one.answered_a, one.columns_a),
        (one.b, one.only_b, one.answered_b, one.columns_b),
    ):
        if rows.count:
            more = ", ..." if rows.count > len(rows.first) else ""
            yield f"only in {path}: {rows.count:,} rows: {', '.join(rows.first)}{more}"
        if answered:
            yield f"answered only in {path}: {answered:,} rows"
        if columns:
            yield f"only in {path}: columns {', '.join(columns)} (--columns names those to compare)"
    for column in one.columns:
        yield from _column_lines(column)
    for row in one.first:
        if row.answered != "both":
            yield f"row {row.row}: answered only in {one.a if row.answered == 'a' else one.b}"
        for name, (x, y) in row.values.items():
            yield f"row {row.row}: {name}: {_value(x)} | {_value(y)}"
    if (rest := one.differing - len(one.first)) > 0:
        yield f"and {rest:,} rows more that differ"
    tolerance = f"within rtol {one.tolerance.rtol:g} and atol {one.tolerance.atol:g}"
    yield f"the outputs {'agree' if one.agree else 'differ'} {tolerance}"


def _column_lines(column: ColumnComparison) -> Iterator[str]:
    largest = column.largest
    difference = "" if largest is None else f"; largest difference {largest.difference:.6g} in row {largest.row}"
    yield f"column {column.name}: {column.differing:,} of {column.rows:,} rows differ{difference}"
    if column.label_changes:
        share = _percent(column.label_changes / column.labels)
        common = ", ".join(f"{a} -> {b}: {n:,}" for (a, b), n in column.changes.most_common(_CHANGES_SHOWN))
        more = ", ..." if len(column.changes) > _CHANGES_SHOWN else ""
        yield f"  {column.label_changes:,} of {column.labels:,} labels changed ({share}): {common}{more}"


def _percent(share: float) -> str:
    # 99.9996 % is not 100 %, which a reader would take for no difference.
    return f"{min(share, 0.9999) if share < 1 else share:.2%}"


def _value(value: Any) -> str:
    return shortened(json.dumps(value, ensure_ascii=False), _LONGEST_VALUE)
