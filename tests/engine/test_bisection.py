"""The evidence of failures: their kinds, samples and turns."""

from __future__ import annotations

from itertools import islice
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fanout.engine.bisection import Bisection, Evidence, Parked, could_be_outage, may_be_rows, may_be_size, samples_of
from fanout.engine.chunker import ChunkTask
from fanout.types import Action, Chunk, Verdict


def samples(n_rows: int, attempts: int, *, whole: bool, n: int) -> list[tuple[int, int]]:
    return [(rows.start, rows.stop) for rows in islice(samples_of(n_rows, attempts, whole=whole), n)]


def test_the_last_attempts_of_a_chunk_send_its_first_row_and_its_last() -> None:
    assert samples(64, 4, whole=True, n=4) == [(0, 64), (0, 64), (0, 1), (63, 64)]
    assert samples(64, 2, whole=True, n=2) == [(0, 1), (63, 64)]
    assert samples(64, 1, whole=True, n=1) == [(63, 64)], "of a single attempt"


def test_a_part_is_sampled_by_its_halves_and_then_by_ever_fewer_rows() -> None:
    assert samples(64, 4, whole=False, n=6) == [(0, 32), (58, 64), (0, 2), (54, 55), (30, 31), (5, 6)]
    assert samples(64, 1, whole=False, n=2) == [(0, 32), (58, 64)]
    assert samples(2, 4, whole=False, n=3) == [(0, 1), (1, 2), (0, 1)]


def test_further_samples_spread_over_the_chunk() -> None:
    rows = [start for start, stop in samples(64, 2, whole=True, n=22)[2:] if stop == start + 1]
    assert len(rows) == 20
    assert len(set(rows)) == 20
    assert max(np.diff(sorted([-1, *rows, 64]))) <= 8


def verdict(**how: Any) -> Verdict:
    return Verdict(**{"action": Action.SPLIT, "reason": "no", "status": 400, **how})


@pytest.mark.parametrize(
    ("how", "size", "outage", "rows"),
    [
        ({}, True, False, True),
        ({"status": 403}, False, False, True),
        ({"action": Action.RETRY, "status": 500}, True, True, True),
        ({"action": Action.RETRY, "status": 503, "overload": True}, False, True, False),
        ({"action": Action.RETRY, "status": 429, "overload": True}, False, True, False),
        ({"action": Action.RETRY, "status": 409}, False, False, True),
        ({"action": Action.RETRY, "status": None, "unreachable": True}, False, True, False),
        ({"action": Action.RETRY, "status": None, "unreachable": True, "broke_off": True}, True, True, True),
        ({"action": Action.RETRY, "status": 200, "error_kind": "shape"}, False, False, True),
        ({"action": Action.RETRY, "status": 500, "error_kind": "rows"}, True, False, True),
    ],
)
def test_a_failure_is_of_the_size_the_endpoint_or_the_rows(how: Any, size: bool, outage: bool, rows: bool) -> None:
    failure = verdict(**how)
    assert (may_be_size(failure), could_be_outage(failure), may_be_rows(failure)) == (size, outage, rows)


class Sizes:
    """What is known of sizes, as a test sets it."""

    def __init__(self) -> None:
        self.exceeds = self.known = self.cleared = False

    def suspected(self, task: ChunkTask) -> None: ...

    def ended(self, task: ChunkTask) -> None: ...

    def beyond(self, task: ChunkTask) -> bool:
        return self.exceeds

    def knows(self, task: ChunkTask) -> bool:
        return self.known

    def clears(self, task: ChunkTask) -> bool:
        return self.cleared


class Scene:
    """The evidence of a run, its successes, and chunks of four rows that fail."""

    def __init__(self) -> None:
        self.group, self.sizes = SimpleNamespace(answered=SimpleNamespace(chunks=0)), Sizes()
        self.evidence = Evidence(self.group, self.sizes)

    def failed(self, number: int, *, n: int = 4, seen: int = 0, **how: Any) -> tuple[Bisection, ChunkTask, Verdict]:
        task = ChunkTask(Chunk(10 * number, 10 * number + n), np.zeros((n, 1)))
        task.history.successes_seen = seen
        bisection, failure = Bisection(task, 0.0), verdict(**how)
        self.evidence.begin(bisection, failure)
        return bisection, task, failure

    def known(self, task: ChunkTask, failure: Verdict) -> bool:
        return self.evidence.known_at_failure(task, failure)


def never(*_: Any) -> bool:
    return False


def test_new_chunks_are_held_back_until_the_first_failure_is_explained() -> None:
    scene = Scene()
    held = [scene.evidence.holds_back]
    scene.failed(0)
    held.append(scene.evidence.holds_back)
    scene.evidence.isolated()
    held.append(scene.evidence.holds_back)  # nothing has succeeded
    scene.group.answered.chunks = 1
    held.append(scene.evidence.holds_back)
    scene.failed(1)
    held.append(scene.evidence.holds_back)  # only before a first success
    assert held == [False, True, True, False, False]


@pytest.mark.parametrize("how", ["ended", "cleared"])
def test_chunks_go_on_once_the_failed_one_has_ended_or_others_of_its_size_succeed(how: str) -> None:
    scene = Scene()
    bisection, _, _ = scene.failed(0)
    scene.sizes.cleared = how == "cleared"
    if how == "ended":
        scene.evidence.end(bisection)
    assert not scene.evidence.holds_back


@pytest.mark.parametrize("how", [{"n": 1}, {"status": 403}])
def test_a_single_row_and_refused_credentials_hold_no_chunk_back(how: Any) -> None:
    scene = Scene()
    scene.failed(0, **how)
    assert not scene.evidence.holds_back


def test_a_failure_is_explained_by_a_known_size_or_by_rows_that_were_isolated_before() -> None:
    scene = Scene()
    _, task, refused = scene.failed(0)
    broken = verdict(action=Action.RETRY, status=500)
    assert not scene.known(task, refused)
    scene.evidence.isolated()
    assert not scene.known(task, refused)
    scene.group.answered.chunks = 1
    assert scene.known(task, refused)
    assert not scene.known(task, broken), "the endpoint may be in trouble again"
    scene.sizes.known = True
    assert scene.known(task, broken)


def test_a_success_after_the_attempt_explains_the_failures_of_two_chunks() -> None:
    scene = Scene()
    scene.group.answered.chunks = 5
    _, task, failure = scene.failed(0, seen=5)
    scene.evidence.succeeded()
    assert not scene.known(task, failure), "it came before the attempt"
    scene.group.answered.chunks = 6
    assert scene.known(task, failure)
    for number in (1, 2):
        parked = Parked(*scene.failed(number), never, lambda: True)
        scene.evidence.parked.append(parked)
        assert scene.evidence.released() is parked
    assert not scene.known(task, failure)
    scene.sizes.exceeds = True
    assert scene.known(task, failure)


@pytest.mark.parametrize(("status", "successes", "seen", "succeeds"), [
    (400, 0, 0, False), (400, 1, 1, True), (403, 1, 1, False), (403, 2, 1, True), (403, 0, 0, False), (403, 1, 0, True),
])  # fmt: skip
def test_a_success_shows_that_the_endpoint_works_but_an_old_one_nothing_of_the_credentials(
    status: int, successes: int, seen: int, succeeds: bool
) -> None:
    scene = Scene()
    scene.group.answered.chunks = successes
    _, task, failure = scene.failed(0, seen=seen, status=status)
    assert scene.evidence.succeeds_beside(task, failure) is succeeds


def test_chunks_that_failed_take_turns() -> None:
    scene = Scene()
    first, second = scene.failed(0), scene.failed(1)
    assert scene.evidence.may_go_on(Parked(*first, never, never))
    assert scene.evidence.may_go_on(Parked(*first, never, never)), "it has the turn"
    assert not scene.evidence.may_go_on(Parked(*second, never, never))
    assert scene.evidence.released() is None
    assert not scene.evidence.is_only(first[0])
    scene.evidence.end(first[0])
    assert scene.evidence.is_only(second[0])
    released = scene.evidence.released()
    assert released is not None
    assert released.task is second[1]
    assert scene.evidence.parked == []


def test_a_turn_is_no_proof() -> None:
    scene = Scene()
    assert not scene.evidence.may_go_on(Parked(*scene.failed(0), never, never, needs_proof=True))
    assert scene.evidence.may_go_on(Parked(*scene.failed(1), never, lambda: True, needs_proof=True))
    assert scene.evidence.may_go_on(Parked(*scene.failed(2), never, never)), "and none was taken"


def test_a_forbidden_chunk_waits_for_the_requests_in_flight_to_its_endpoint() -> None:
    scene = Scene()
    forbidden = scene.failed(0, status=403)
    endpoint: Any = SimpleNamespace(in_flight=1, served=False)
    forbidden[1].endpoint = endpoint
    assert not scene.evidence.credentials_accepted(forbidden[1])
    assert not scene.evidence.may_go_on(Parked(*forbidden, never, never, after_others=True))
    waits = [scene.evidence.waits_for_others]
    endpoint.in_flight = 0
    assert scene.evidence.released() is not None
    assert [*waits, scene.evidence.waits_for_others] == [True, False]
    endpoint.served = True
    assert scene.evidence.credentials_accepted(forbidden[1])
