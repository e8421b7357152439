"""The sample of the answers is uniform, leaves out failed rows, and harms no run."""

from __future__ import annotations

import logging
from collections import Counter

import numpy as np

from fanout.report.row_sample import NOT_FINITE, RowSample
from fanout.results import ChunkResult, Failure


def chunk(start, outputs, failures=()):
    n_rows = len(next(iter(outputs.values())))
    return ChunkResult(start=start, stop=start + n_rows, outputs=outputs, failures=failures)


def sampled(*chunks, redact=str):
    sample = RowSample(redact)
    for one in chunks:
        sample([one])
    return {output.name: output for output in sample.outputs()}


def test_few_rows_are_all_in_the_sample():
    output = sampled(chunk(0, {"": np.arange(3.0)}), chunk(3, {"": np.arange(3.0, 5.0)}))[""]
    assert (output.form, output.seen, output.numbers) == ("number", 5, [0, 1, 2, 3, 4])


def test_each_row_is_as_likely_to_be_in_the_sample():
    rows = sampled(*(chunk(start, {"": np.arange(start, start + 50.0)}) for start in range(0, 100_000, 50)))[""]
    assert (rows.seen, len(rows.numbers)) == (100_000, 500)
    counts = np.histogram(rows.numbers, bins=10, range=(0, 100_000))[0]
    # 50 are expected in each tenth, with a standard deviation of 6.7.
    assert counts.min() > 25
    assert counts.max() < 75


def test_fill_values_of_failed_rows_are_left_out():
    failed = Failure(start=1, stop=3, reason="no", status=422, attempts=1, endpoint="")
    output = sampled(chunk(0, {"": np.array([5.0, 0, 0, 7.0])}, (failed,)))[""]
    assert (output.seen, output.numbers) == (2, [5, 7])


def test_each_kind_of_output_has_its_form():
    texts = np.array(["yes", "no", "yes", "yes"], np.dtypes.StringDType())
    long = np.array([f"{n}" * 100 for n in range(4)], np.dtypes.StringDType())
    outputs = sampled(
        chunk(0, {
            "label": texts, "text": long, "vec": np.array([[3.0, 4.0]] * 4), "flag": np.arange(4) != 1,
            "one": np.array([[-2.0]] * 4),
            "object": np.array([{"a": 1}, None, [1], {}], object), "number": np.array([1.0, np.nan, np.inf, 2.0]),
        })
    )  # fmt: skip
    assert outputs["label"].labels == {"yes": 3, "no": 1}
    assert (outputs["text"].form, outputs["text"].numbers, outputs["text"].labels) == ("text", [100] * 4, {})
    assert (outputs["vec"].form, outputs["vec"].numbers) == ("vector", [5] * 4)
    assert (outputs["vec[]"].form, outputs["vec[]"].numbers) == ("top", [1] * 4)
    assert (outputs["one"].form, outputs["one"].numbers) == ("number", [-2] * 4)
    assert outputs["flag"].labels == {"true": 3, "false": 1}
    assert outputs["object"].labels == {"dict": 2, "NoneType": 1, "list": 1}
    assert (outputs["number"].numbers, outputs["number"].labels) == ([1, 2], {NOT_FINITE: 2})


def test_labels_are_redacted_and_bounded():
    texts = np.array([f"s3cret {n}" for n in range(15)] * 4, np.dtypes.StringDType())
    output = sampled(chunk(0, {"": texts}), redact=lambda text: text.replace("s3cret", "***"))[""]
    assert output.labels == dict(Counter({f"*** {n}": 4 for n in range(15)}))


def test_values_that_cannot_be_sampled_are_logged_once_and_end_nothing(caplog):
    sample = RowSample(str)
    with caplog.at_level(logging.ERROR, "fanout"):
        sample([ChunkResult(start=0, stop=1, outputs={"": None})])  # type: ignore[dict-item]
        sample([ChunkResult(start=0, stop=1, outputs={"": None})])  # type: ignore[dict-item]
    assert [record.message for record in caplog.records] == ["the report cannot sample the answers"]
