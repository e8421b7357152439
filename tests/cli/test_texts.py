"""The text of reports for people."""

from __future__ import annotations

from dataclasses import replace
from math import nan

import numpy as np

from fanout.cli.texts import check_text, summary_text
from fanout.client import Preview
from fanout.job import ArraySchema, CheckReport, Summary
from fanout.job.report import OutputFiles, Probe, StopCause
from fanout.results import Failure, Result, Statistics
from fanout.types import ModelInfo, Tensor

STATS = Statistics(
    seconds=0.38, writing_seconds=0.01, ok=1797, requests=29, retries=1,
    latency_p50=0.012, latency_p95=0.034, latency_p99=1.5,
)  # fmt: skip
SUMMARY = Summary(
    rows=1797, ok=1797, pending=0, earlier=0, reading_seconds=0.01, stats=STATS,
    files=OutputFiles(outputs=("y.npy",), mask=None, failures=None), resumable=False, exit_code=0,
)  # fmt: skip
NOT_PROBED = Result(outputs=None, ok=np.zeros(0, bool), failures=(), pending=(), stats=Statistics())
CHECKED = CheckReport(
    rows=0, input=(ArraySchema(name="a", dtype="f4", shape=(0, 2)), ArraySchema(name="b", dtype="i8", shape=(0,))),
    endpoint="http://host/", codec="json", preview=None, chunk_rows=64, chunks=0, output="y.npy",
    probe=Probe(NOT_PROBED, ()), exit_code=0,
)  # fmt: skip


def with_stats(**values: object) -> Summary:
    return replace(SUMMARY, stats=replace(STATS, **values))


def failure(row: int) -> Failure:
    return Failure(start=row, stop=row + 1, reason="no", status=422, attempts=1, endpoint="http://host/")


def test_a_summary_shows_rows_requests_latency_and_files():
    assert summary_text(SUMMARY).splitlines() == [
        "1797 rows: 1797 ok, 0 failed; 400 ms, 4,729 rows/s",
        "29 requests, 1 retries; latency p50 12 ms, p95 34 ms, p99 1.5 s",
        "output:   y.npy",
    ]


def test_a_summary_lists_the_phases_unless_sending_took_all_the_time():
    slow = replace(with_stats(seconds=1.5, writing_seconds=1.25), reading_seconds=0.25)
    assert "; 3 s (reading 250 ms, sending 1.5 s, writing 1.25 s), 1,198 rows/s" in summary_text(slow)


def test_a_summary_shows_splits_if_there_were_any():
    assert "1 retries, 3 splits;" in summary_text(with_stats(splits=3))


def test_a_summary_without_an_exchange_shows_no_latency():
    assert "latency" not in summary_text(with_stats(latency_p50=nan))


def test_a_check_without_rows_shows_the_columns_and_no_probe():
    text = check_text(CHECKED)
    assert "input:    0 rows a f4 (0, 2); b i8 (0,)" in text
    assert "none, there are no rows" in text


def test_a_summary_shows_the_usage_that_is_not_zero():
    usage = {"prompt_tokens": 12345, "cached": 0, "total_tokens": 12350}
    assert "\nusage:    12,345 prompt_tokens, 12,350 total_tokens\n" in summary_text(with_stats(usage=usage))
    assert "usage" not in summary_text(with_stats(usage={"cached": 0}))


def test_a_check_shows_the_model_and_each_tensor_with_the_dtype_of_its_column():
    a = Tensor(name="a", datatype="FP32", shape=(-1, 2))
    model = ModelInfo(name="m", versions=("1", "2"), inputs=(a, Tensor(name="b", datatype="")))
    sends = (a, Tensor(name="b", datatype="INT8", shape=(1,)))
    preview = Preview(model=model, max_rows=1, chunk_rows=64, tensors=sends, body_bytes=1234)
    text = check_text(replace(CHECKED, preview=preview))
    assert text.splitlines()[2:7] == [
        "model:    m, versions 1, 2",
        "  takes:  a FP32 [-1, 2]; b (datatype not reported) (shape not reported)",
        "  gives:  not reported",
        "  limit:  1 row in a request",
        "chunks:   0 of up to 64 rows, a request each",
    ]
    assert "sends:    f4 as a FP32 [-1, 2]; i8 as b INT8 [1]; 1,234 bytes in the first request" in text


def test_a_check_that_was_stopped_does_not_claim_that_there_are_no_rows():
    text = check_text(replace(CHECKED, rows=9, stop=StopCause("unreachable", "nobody answers")))
    assert "probe:    none, it was stopped" in text


def test_a_check_lists_the_first_failures():
    ok, failures = np.arange(9) >= 5, tuple(failure(row) for row in range(5))
    probe = Probe(replace(NOT_PROBED, ok=ok, failures=failures), ())
    text = check_text(replace(CHECKED, rows=9, probe=probe))
    assert "row 2: no" in text
    assert "row 3" not in text
    assert "and 2 rows more" in text


def test_a_stopped_run_lists_the_first_rows_that_failed():
    stopped = replace(SUMMARY, ok=0, pending=1796, first_failures=(failure(0),), resumable=True)
    assert str(failure(0)) in summary_text(stopped)
    assert "next: " not in summary_text(stopped)
