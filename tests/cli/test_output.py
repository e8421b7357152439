"""What people read."""

from __future__ import annotations

from dataclasses import replace

from fanout.cli.output import findings_text, summary_text
from fanout.job import Findings, OutputSchema, Summary
from fanout.types import Failure, ModelInfo, Tensor

SUMMARY = Summary(
    rows=1797, ok=1797, failed=0, pending=0, seconds=0.4, reading_seconds=0.01, sending_seconds=0.38,
    writing_seconds=0.01, rows_per_second=4492.5, requests=29, retries=1, splits=0,
    hedges=0, hedges_won=0, concurrency=None,
    latency_p50=0.012, latency_p95=0.034, latency_p99=1.5, outputs=("y.npy",), mask=None, failures=None, earlier=0,
    resumable=False, exit_code=0,
)  # fmt: skip

FINDINGS = Findings(
    rows=0, input=(OutputSchema(name="a", dtype="f4", shape=(0, 2)), OutputSchema(name="b", dtype="i8", shape=(0,))),
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


def test_a_summary_says_where_the_time_went_unless_all_went_into_sending():
    slow = replace(SUMMARY, seconds=3.0, reading_seconds=0.25, sending_seconds=1.5, writing_seconds=1.25)
    assert "; 3.00 s (reading 250.0 ms, sending 1.50 s, writing 1.25 s), 4,492 rows/s" in summary_text(slow)


def test_a_summary_tells_splits_where_there_were_some():
    assert "1 retries, 3 splits;" in summary_text(replace(SUMMARY, splits=3))


def test_a_summary_without_latency_says_nothing_of_it():
    assert "latency" not in summary_text(replace(SUMMARY, latency_p50=None))


def test_findings_without_rows_tell_the_columns_and_no_probe():
    text = findings_text(FINDINGS)
    assert "input:    0 rows a f4 (0, 2); b i8 (0,)" in text
    assert "none, there are no rows" in text


def test_a_summary_tells_the_usage_that_is_not_zero():
    usage = {"prompt_tokens": 12345, "cached": 0, "total_tokens": 12350}
    assert "\nusage:    12,345 prompt_tokens, 12,350 total_tokens\n" in summary_text(replace(SUMMARY, usage=usage))
    assert "usage" not in summary_text(replace(SUMMARY, usage={"cached": 0}))


def test_findings_tell_the_model_and_each_tensor_with_the_dtype_of_its_column():
    a = Tensor(name="a", datatype="FP32", shape=(-1, 2))
    model = ModelInfo(name="m", versions=("1", "2"), inputs=(a, Tensor(name="b", datatype="")))
    sends = (a, Tensor(name="b", datatype="INT8", shape=(1,)))
    text = findings_text(replace(FINDINGS, model=model, max_rows=1, sends=sends, body_bytes=1234))
    assert text.splitlines()[2:7] == [
        "model:    m, versions 1, 2",
        "  takes:  a FP32 [-1, 2]; b (datatype not told) (shape not told)",
        "  gives:  not told",
        "  limit:  1 row in a request",
        "chunks:   0 of up to 64 rows, a request each",
    ]
    assert "sends:    f4 as a FP32 [-1, 2]; i8 as b INT8 [1]; 1,234 bytes in the first request" in text


def test_findings_of_a_check_that_was_stopped_do_not_say_that_there_are_no_rows():
    text = findings_text(replace(FINDINGS, rows=9, stop_kind="unreachable", stop_reason="nobody answers"))
    assert "probe:    none, it was stopped" in text


def test_findings_list_the_first_failures():
    text = findings_text(
        replace(FINDINGS, rows=9, probed=9, failed=5, failures=tuple(failure(row) for row in range(5)))
    )
    assert "row 2: no" in text
    assert "row 3" not in text
    assert "and 2 rows more" in text
