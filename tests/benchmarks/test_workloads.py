"""Tests of the workloads: a contender with wrong answers gets no figures."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.workloads import NAMES, site, workload_named


@pytest.mark.parametrize("name", NAMES)
def test_the_right_answers_pass(name):
    workload = workload_named(name)
    workload.check(np.concatenate([workload.answer] * 2), 2)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda right: right[:-1],
        lambda right: right.astype(np.float64),
        lambda right: right[::-1],
        lambda right: np.where(np.arange(len(right))[:, None] == 7, 0, right).astype(np.float32),
    ],
    ids=["a row is missing", "another dtype", "another order", "one row is wrong"],
)
def test_wrong_answers_are_errors(spoil):
    workload = workload_named("W2")
    with pytest.raises(ValueError, match=r"is right|differ from the server's"):
        workload.check(spoil(np.concatenate([workload.answer] * 2)), 2)


@pytest.mark.parametrize("name", NAMES)
def test_a_request_has_as_many_rows_as_its_answer(name):
    workload = workload_named(name)
    assert len(workload.rows(3)) == 3 * workload.chunk_rows == 3 * len(workload.answer)


def test_every_workload_has_its_own_path_on_the_server():
    paths = {workload_named(name).url_path for name in NAMES}
    assert len(paths) == len(NAMES)
    assert paths <= site().keys()
