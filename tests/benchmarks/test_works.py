"""The works: a contender whose answers are not the server's gets no figures."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.works import NAMES, site, work


@pytest.mark.parametrize("name", NAMES)
def test_the_right_answers_pass(name):
    job = work(name)
    job.check(np.concatenate([job.answer] * 2), 2)


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
def test_wrong_answers_are_found(spoil):
    job = work("W2")
    with pytest.raises(ValueError, match=r"is right|not the server's"):
        job.check(spoil(np.concatenate([job.answer] * 2)), 2)


@pytest.mark.parametrize("name", NAMES)
def test_a_request_has_the_rows_that_its_answer_has(name):
    job = work(name)
    assert len(job.rows(3)) == 3 * job.chunk_rows == 3 * len(job.answer)


def test_every_work_has_a_place_of_its_own_on_the_server():
    paths = {work(name).url_path for name in NAMES}
    assert len(paths) == len(NAMES)
    assert paths <= site().keys()
