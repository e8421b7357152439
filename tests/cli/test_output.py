"""What people read."""

from __future__ import annotations

from dataclasses import replace

from fanout.cli.output import findings_text, summary_text
from fanout.job import Findings, Form, Summary
from fanout.types import Failure

SUMMARY = Summary(
    rows=1797, ok=1797, failed=0, pending=0, seconds=0.4, rows_per_second=4492.5, requests=29, retries=1, splits=0,
    latency_p50=0.012, latency_p95=0.034, latency_p99=1.5, outputs=("y.npy",), mask=None, failures=None, exit_code=0,
)  # fmt: skip

FINDINGS = Findings(
    rows=0, input=(Form(name="a", dtype="f4", shape=(0, 2)), Form(name="b", dtype="i8", shape=(0,))),
    endpoint="http://host/", codec="json", chunk_rows=64, chunks=0, output="y.npy", probed=0, ok=0, failed=0, answer=(),
    requests=0, seconds=0.0, latency=None, exit_code=0,
)  # fmt: skip


def failure(row: int) -> Failure:
    return Failure(start=row, stop=row + 1, reason="no", status=422, attempts=1, endpoint="http://host/")


def test_a_summary_tells_rows_requests_latency_and_files():
    assert summary_text(SUMMARY).splitlines() == [
        "1797 rows: 1797 ok, 0 failed; 0.40 s, 4,492 rows/s",
        "29 requests, 1 retries; latency p50 12.0 ms, p95 34.0 ms, p99 1.50 s",
        "output:   y.npy",
    ]


def test_a_summary_tells_splits_where_there_were_some():
    assert "1 retries, 3 splits;" in summary_text(replace(SUMMARY, splits=3))


def test_a_summary_without_latency_says_nothing_of_it():
    assert "latency" not in summary_text(replace(SUMMARY, latency_p50=None))


def test_findings_without_rows_tell_the_columns_and_no_probe():
    text = findings_text(FINDINGS)
    assert "input:    0 rows a f4 (0, 2); b i8 (0,)" in text
    assert "none, there are no rows" in text


def test_findings_list_the_first_failures():
    text = findings_text(
        replace(FINDINGS, rows=9, probed=9, failed=5, failures=tuple(failure(row) for row in range(5)))
    )
    assert "row 2: no" in text
    assert "row 3" not in text
    assert "and 2 rows more" in text
