"""Run every contender that needs no peer's package, with every workload and study, against the project's server."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from benchmarks.child import Task, main
from benchmarks.groups import groups
from benchmarks.rounds import Servers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.groups import Entry

SMALL = {
    (group.name, entry.name): entry
    for group in groups(lengths=[5])
    for entry in group.entries
    if entry.workload and set(entry.needs) <= {"pyarrow"} and entry.unavailable() is None
}


def ours(entry: str) -> bool:
    """Whether an entry is of fanout, or the floor that it is compared with."""
    return entry.startswith(("fanout", "into a file", "aiohttp + orjson"))


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    with ExitStack() as stack:
        yield Servers(stack, nginx=False, core=None)


def task(entry: Entry, servers: Servers, **changes: object) -> Task:
    origin = servers.origin(entry.served)
    given = {"target": entry.target, "workload": entry.workload, "requests": 5, "options": entry.options}
    return Task(origin=origin, **{**given, **changes})


@pytest.mark.filterwarnings("ignore:Sending a large body directly:ResourceWarning")  # bare means bare
@pytest.mark.parametrize(
    "where",
    [
        pytest.param(where, id=" | ".join(where), marks=[] if where[0] == "W1" or ours(where[1]) else pytest.mark.slow)
        for where in SMALL
    ],
)
def test_the_answers_of_a_contender_are_right_and_its_cost_is_measured(where, servers):
    entry = SMALL[where]
    cost = main(task(entry, servers))  # raises where an answer is differ from the server's
    assert cost.units >= 5
    assert cost.cpu > 0
    assert cost.wall > 0
    assert cost.peak is None or cost.peak > 0


def test_every_workload_runs_with_fanout_and_the_floor():
    done = {(group, name.partition(",")[0]) for group, name in SMALL}
    assert {(workload, "fanout") for workload in ("W1", "W2", "W2f", "W3", "W4", "W5", "W6")} <= done
    assert {(workload, "aiohttp + orjson") for workload in ("W1", "W2f", "W3", "W4", "W5", "W6")} <= done


def test_answers_of_another_workload_are_refused(servers):
    entry = SMALL["W1", "gather + json"]
    with pytest.raises(ValueError, match=r"float32 \(1, 768\), and float32 \(1, 10\) is right"):
        main(task(entry, servers, target="tests.wrong_contender:opened"))


def test_attempts_that_failed_are_counted_among_the_units(servers):
    entry = SMALL["failures", "10% of the answers are a 503"]
    assert main(task(entry, servers, requests=200)).units >= 220
