"""The budget of bisections ends searches that save too few rows, and runs whose requests must be wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fanout.engine.bisection_budget import BisectionBudget
from fanout.engine.chunker import ChunkTask
from fanout.rows import RowSet
from fanout.types import Action, Chunk, Verdict


def verdict(**how: Any) -> Verdict:
    return Verdict(**{"action": Action.SPLIT, "reason": "no", "status": 400, **how})


class Run:
    """A budget and the successes that it looks at."""

    def __init__(self, **options: Any) -> None:
        self.successes = 0
        self.budget = BisectionBudget(lambda: self.successes, **options)

    def refuse(self, chunk: int, *, rows: int = 1, **how: Any) -> bool:
        """A refusal in the chunk that begins at this row. True if these are too many."""
        task = ChunkTask(Chunk(chunk, chunk + rows), np.zeros((rows, 1)))
        self.budget.refused(task, verdict(**how))
        return self.budget.refused_too_often(verdict(**how))


def test_two_single_rows_that_fail_are_hopeless_unless_anything_has_succeeded() -> None:
    run, resumed = Run(), Run(answered_before=True)
    seen = []
    for _ in range(64):
        run.budget.row_failed()
        resumed.budget.row_failed()
        seen.append((run.budget.hopeless, resumed.budget.hopeless))
    assert seen == [(False, False), *[(True, False)] * 62, (True, True)]
    run.successes = 1
    assert not run.budget.hopeless


def test_isolation_is_useless_once_more_than_half_of_64_rows_have_failed() -> None:
    budget = Run().budget
    useful = []
    for saved, failed in [(30, 33), (0, 1), (4, 0), (0, 1)]:  # 63 rows, 34 of 64, 34 of 68, 35 of 69
        budget.rows_succeeded(saved)
        for _ in range(failed):
            budget.row_failed()
        useful.append(budget.useful)
    assert useful == [True, False, True, False]


def test_a_row_is_known_that_failed_alone_before() -> None:
    budget = Run(failed_alone=RowSet([(3, 5)])).budget
    alone = [budget.is_known_bad(ChunkTask(Chunk(row, row + 1), np.zeros((1, 1)))) for row in range(7)]
    assert alone == [False, False, False, True, True, False, False]
    assert not budget.is_known_bad(ChunkTask(Chunk(3, 5), np.zeros((2, 1)))), "together they did not"
    assert not Run().budget.is_known_bad(ChunkTask(Chunk(3, 4), np.zeros((1, 1))))


def test_twenty_rows_of_three_chunks_refused_in_the_same_words_are_too_many() -> None:
    run = Run()
    assert [run.refuse(chunk) for chunk in [0] * 9 + [10] * 9 + [20, 20]] == [False] * 19 + [True]
    run.successes = 1
    assert not run.refuse(30), "the count begins anew"


def test_rows_of_two_chunks_are_too_few_unless_whole_chunks_are_refused_besides() -> None:
    run = Run()
    assert not any(run.refuse(chunk % 2) for chunk in range(40))
    assert [run.refuse(100 * n, rows=50) for n in range(1, 15)] == [False] * 13 + [True]


def test_three_chunks_are_enough_where_the_credentials_may_be_refused() -> None:
    run = Run()
    assert not any(run.refuse(chunk % 2, status=403) for chunk in range(40))
    assert run.refuse(100, rows=50, status=403)


def test_the_ids_of_requests_are_no_part_of_the_words() -> None:
    run = Run()
    assert any(run.refuse(n, reason=f"account closed (request req-{n:08d}-x)") for n in range(20))
    other = Run()
    assert not any(other.refuse(n, reason=f"row {n} is bad") for n in range(40)), "a short number is"


@pytest.mark.parametrize(
    ("how", "counts"),
    [
        ({"status": 400}, True),
        ({"status": 399}, False),
        ({"status": 200, "without_values": True}, True),
        ({"status": 200}, False),
        ({"status": None}, False),
        ({"about_rows": True}, False),
    ],
)
def test_refusals_count_that_are_errors_and_not_about_rows(how: Any, counts: bool) -> None:
    run = Run()
    assert any(run.refuse(n, **how) for n in range(30)) is counts


def test_too_many_wordings_have_no_common_cause() -> None:
    run = Run()
    for n in range(19):
        run.refuse(n)
    for n in range(63):
        run.refuse(n, reason=f"reason {n}")
    assert not run.refuse(20), "64 wordings were known, and all are forgotten"


def test_a_run_stops_where_no_row_is_accepted_or_many_are_refused_alike_unless_that_spares_nothing() -> None:
    alone = {"only_row": False, "spares_nothing": False}
    run = Run()
    assert run.budget.stop_for(verdict(), **alone) is None
    refused = run.budget.stop_for(verdict(status=403), only_row=True, spares_nothing=False)
    assert refused is not None
    assert (refused.kind, refused.reason) == ("refused", "the endpoint accepts no row at all, not even alone: no")
    for chunk in [0] * 9 + [10] * 9 + [20, 20]:
        run.refuse(chunk)
    assert run.budget.stop_for(verdict(), only_row=False, spares_nothing=True) is None
    alike = run.budget.stop_for(verdict(), **alone)
    assert alike is not None
    assert alike.kind == "rejected"
    assert "in the same words" in alike.reason
    run.budget.row_failed()
    run.budget.row_failed()
    hopeless = run.budget.stop_for(verdict(), **alone)
    assert hopeless is not None
    assert "not even alone" in hopeless.reason
