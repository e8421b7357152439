"""Requests and their answers as text: the first one of ``fanout check --show``, and those of ``fanout show``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from fanout._escape import escaped, escaped_lines
from fanout.cli.output import print_result
from fanout.job import recorded_row
from fanout.job.exchange import abbreviated
from fanout.report.scales import duration
from fanout.rows import RowSet, dtype_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from fanout.job import CheckReport, RecordedRow
    from fanout.job.exchange import Exchange
    from fanout.types import Array

_WIDTH = 100
_INDENT = "  "


def probe_text(report: CheckReport) -> str:
    """Return the first request, its answer and the values in it; empty if the check did not keep them."""
    exchange = report.probe.exchange
    if exchange is None:
        return ""
    return "\n".join([*_request_lines(exchange), "", *_response_lines(exchange), *_value_lines(report)])


def show_command(recording: Path, row: int, *, as_json: bool) -> int:
    """Print the exchanges of a recording that hold a row. Returns the exit code."""
    recorded = recorded_row(recording, row)
    print_result(recorded.as_dict(), "\n".join(_recorded_lines(recorded)), as_json=as_json)
    return 0


def _recorded_lines(recorded: RecordedRow) -> Iterator[str]:
    exchanges, row = recorded.exchanges, recorded.row
    yield escaped(f"row {row} is in {len(exchanges)} of {recorded.total:,} exchanges of {recorded.recording}")
    for one in exchanges:
        yield ""
        # Lists in the exchange are cut around this place, which would be hard to recognize without its number.
        place = f"; row {row} is number {one.place + 1:,} of {one.n_rows:,}" if one.n_rows > 1 else ""
        yield f"exchange {one.number:,}, after {duration(one.at)}: rows {RowSet(one.rows).listed()}{place}"
        yield from _request_lines(one.exchange)
        yield from _response_lines(one.exchange)


def _request_lines(exchange: Exchange) -> Iterator[str]:
    yield f"request:  {exchange.method} {escaped(exchange.url)}"
    yield from _message(exchange.headers, exchange.body)


def _response_lines(exchange: Exchange) -> Iterator[str]:
    if exchange.status is None:
        yield f"response: none after {duration(exchange.seconds)}: {escaped(exchange.error)}"
        return
    yield f"response: HTTP {exchange.status} after {duration(exchange.seconds)}"
    yield from _message(exchange.answer_headers, exchange.answer)


def _value_lines(report: CheckReport) -> Iterator[str]:
    outputs = report.probe.result.outputs
    # Fill values of failed rows would look like answers.
    if not outputs or not report.probe.result.ok.any():
        return
    yield ""
    yield "values of the first row with an answer:"
    row = int(np.flatnonzero(report.probe.result.ok)[0])
    yield values_text({name: array[row:] for name, array in outputs.items()}, report.probe.paths)


def values_text(outputs: Mapping[str, Array], paths: Mapping[str, str] | None = None) -> str:
    """Return the dtype, the shape, the path in the answer and the first value of each output."""
    return "\n".join(_output_lines(outputs, paths or {}))


def _output_lines(outputs: Mapping[str, Array], paths: Mapping[str, str]) -> Iterator[str]:
    for name, array in outputs.items():
        path = f"; at {paths[name]}" if name in paths else ""
        shape = f" of shape {list(array.shape[1:])}" if array.ndim > 1 else ""
        value = _one_line(abbreviated(array[:1].tolist()[0]))
        yield escaped(f"{_INDENT}{name or 'value'} ({dtype_name(array.dtype)}{shape}{path}): {value}")


def _message(headers: Mapping[str, str], body: Any) -> Iterator[str]:
    for name, value in headers.items():
        yield escaped(f"{_INDENT}{name}: {value}")
    if body not in ("", None):
        yield ""
        # A body that is no JSON is shown as the text that it is.
        text = body if isinstance(body, str) else pretty(body)
        for line in escaped_lines(text).split("\n"):
            yield _INDENT + line


def pretty(value: Any, indent: str = "") -> str:
    """Return a JSON value in lines; parts that fit are on one line."""
    line = _one_line(value)
    if len(indent) + len(line) <= _WIDTH or not isinstance(value, dict | list):
        return line
    deeper = indent + _INDENT
    if isinstance(value, dict):
        inner = [f"{_one_line(key)}: {pretty(one, deeper)}" for key, one in value.items()]
        return "{\n" + ",\n".join(deeper + one for one in inner) + f"\n{indent}}}"
    return "[\n" + ",\n".join(deeper + pretty(one, deeper) for one in value) + f"\n{indent}]"


def _one_line(value: Any) -> str:
    # NaN and infinity are no JSON, but an array may hold them.
    return json.dumps(value, ensure_ascii=False)
