"""The study of faults: clients that raise lose their rows, and fanout loses none."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from benchmarks.faults import Outcome, _in_a_process, outcome, table
from benchmarks.groups import BY_HAND, FANOUT, FLOOR, cluster_targets, fault_targets
from benchmarks.servers.vectors import FAULTS, running, vectors
from benchmarks.workloads import workload_named

# Each kind of fault comes once.
REQUESTS, SHARE = 4 * len(FAULTS), 0.25


async def test_fanout_has_every_row_right_through_all_faults():
    with running(SHARE) as origin:
        one = await outcome(FANOUT, fault_targets()[FANOUT], origin, REQUESTS)
    assert (one.rows, one.lost, one.wrong, one.error) == (64 * REQUESTS, 0, 0, "")


@pytest.mark.parametrize("name", [FLOOR, BY_HAND])
async def test_a_client_that_raises_has_lost_its_rows(name):
    with running(SHARE) as origin:
        one = await outcome(name, fault_targets()[name], origin, REQUESTS)
    assert (one.lost, one.wrong) == (64 * REQUESTS, 0)
    assert one.error


@pytest.mark.parametrize("name", [FANOUT, FLOOR, BY_HAND])
async def test_without_faults_every_client_has_every_row(name):
    with running(0.0) as origin:
        one = await outcome(name, fault_targets()[name], origin, 3)
    assert (one.lost, one.wrong, one.error) == (0, 0, "")


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("name", list(cluster_targets()))
async def test_runs_on_two_workers_lose_rows_to_faults_unless_they_are_of_fanout(name):
    pytest.importorskip("ray" if "ray" in name.lower() else "distributed")
    for share in (0.0, SHARE):
        with running(share) as origin:
            # Engines leave threads and loggers behind, so that each gets a process.
            one = await asyncio.to_thread(_in_a_process, name, origin, REQUESTS)
        is_lost = bool(share) and not name.startswith(FANOUT)
        assert (one.rows, one.lost, one.wrong) == (64 * REQUESTS, 64 * REQUESTS * is_lost, 0)


def test_the_answers_of_other_rows_are_wrong():
    workload = workload_named("J1")
    with pytest.raises(ValueError, match="differ"):
        workload.check(vectors(np.arange(64)[::-1]), 1)


def test_the_table_has_the_rate_of_right_rows():
    text = table({"a": Outcome(rows=100, lost=20, wrong=30, seconds=2.0, error="E: x")}, 0.05)
    assert text.splitlines()[-1] == "| a | 25 | 20 of 100 | 30 | E: x |"
