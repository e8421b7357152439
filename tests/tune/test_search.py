"""The search against models of servers: no I/O, no clock."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanout.tune.search import GROWTH, Search
from fanout.tune.trial import Bounds, Measurement, Point

SIZES = tuple(2**k for k in range(11))
STEPS = tuple(2**k for k in range(8))
BOUNDS = Bounds(p95=1e9, errors=0.01)


@dataclass(frozen=True)
class Server:
    """``workers`` requests at a time, each ``fixed`` s and ``per_row`` s a row; more wait in line."""

    workers: int = 8
    fixed: float = 0.1
    per_row: float = 0.001
    largest: int = 10**6
    noise: float = 0.0
    overload: int = 10**6
    """In flight from which on it refuses half of the requests."""

    def rate(self, point: Point) -> float:
        busy = min(point.concurrency, self.workers)
        return busy * point.chunk_rows / (self.fixed + self.per_row * point.chunk_rows)

    def latency(self, point: Point) -> float:
        return point.concurrency * point.chunk_rows / self.rate(point)

    def measured(self, point: Point, chance: random.Random) -> Measurement:
        if point.chunk_rows > self.largest:
            return Measurement(requests=3, refused="HTTP 413: too large")
        luck = 1 + self.noise * chance.uniform(-1, 1)
        latency = self.latency(point)
        return Measurement(
            rows=round(100 * point.chunk_rows),
            seconds=100 * point.chunk_rows / (self.rate(point) * luck),
            requests=100,
            retried=50 if point.concurrency >= self.overload else 0,
            latency_p50=latency,
            latency_p95=latency,
        )


def searched(
    server: Server, *, bounds: Bounds = BOUNDS, start: int = 64, n_rows: int | None = None, seed: int = 0
) -> tuple[Search, list[Point]]:
    """A search to its end, and the points in the order of their trials."""
    search = Search(SIZES, STEPS, start=start, bounds=bounds, n_rows=n_rows)
    asked, chance = [], random.Random(seed)
    while (point := search.next()) is not None:
        asked.append(point)
        search.record(point, server.measured(point, chance))
        assert len(asked) < 100, "it does not end"
    return search, asked


def best(search: Search) -> Point:
    assert search.best is not None
    return search.best.point


def test_the_knee_is_found_and_the_fewest_in_flight_that_reach_it():
    search, asked = searched(Server(workers=8, fixed=0.1, per_row=10.0))  # larger chunks bring nothing
    assert best(search).concurrency == 8
    assert asked[:5] == [Point(64, 1), Point(64, 2), Point(64, 4), Point(64, 8), Point(64, 16)]


def test_a_server_whose_requests_cost_more_than_their_rows_gets_large_chunks():
    search, _ = searched(Server(workers=4, fixed=1.0, per_row=0.0001))
    assert best(search) == Point(1024, 4)


def test_growth_past_the_knee_is_given_up_after_one_more_look():
    _, asked = searched(Server(workers=4, per_row=10.0))
    assert max(point.concurrency for point in asked) == 16


def test_the_best_is_measured_twice_and_no_point_more_often():
    search, asked = searched(Server())
    assert asked.count(best(search)) == 2
    assert max(map(asked.count, asked)) == 2


def test_a_size_that_is_refused_ends_the_growth_and_is_not_exceeded():
    search, asked = searched(Server(workers=4, fixed=1.0, per_row=0.0001, largest=200))
    assert best(search) == Point(128, 4)
    assert [point.chunk_rows for point in asked if point.chunk_rows > 128] == [256]
    assert search.trial(Point(256, 4)).verdict == "refused"


def test_a_job_whose_own_chunks_are_refused_is_tuned_with_smaller_ones():
    search, asked = searched(Server(largest=20), start=128)
    assert [point.chunk_rows for point in asked[:4]] == [128, 64, 32, 16]
    assert best(search).chunk_rows == 16


def test_nothing_over_the_bound_on_p95_is_chosen():
    search, _ = searched(Server(workers=64, fixed=0.1, per_row=0.01), bounds=Bounds(p95=0.8))
    assert best(search).chunk_rows <= 64
    assert search.best is not None
    assert search.best.latency_p95 is not None
    assert search.best.latency_p95 <= 0.8


class Batching(Server):
    """It merges waiting requests, so an answer takes longer the more are in flight."""

    def latency(self, point: Point) -> float:
        return 0.1 + 0.0001 * point.chunk_rows * point.concurrency + 0.01 * point.concurrency

    def rate(self, point: Point) -> float:
        return point.chunk_rows * point.concurrency / self.latency(point)


def test_where_p95_binds_the_same_rows_go_in_fewer_larger_chunks():
    search, _ = searched(Batching(), bounds=Bounds(p95=0.4))
    assert search.trial(Point(64, 32)).verdict == "p95"
    assert search.trial(Point(128, 16)).verdict == "p95"
    assert search.trial(Point(128, 8)).verdict == "ok"
    assert best(search) == Point(512, 4)


class Pipe(Server):
    """One worker behind a long line: much has to be in flight while chunks are small."""

    def rate(self, point: Point) -> float:
        service = 0.01 + 0.0001 * point.chunk_rows
        return point.chunk_rows * min(point.concurrency / (0.1 + service), 1 / service)


def test_with_larger_chunks_fewer_in_flight_are_enough():
    search, _ = searched(Pipe())
    assert search.trial(Point(64, 8)).rows_per_second > 1.5 * search.trial(Point(64, 4)).rows_per_second
    assert best(search) == Point(1024, 2)


class Quadratic(Server):
    """A long chunk costs more than two short ones, as attention over all of it would."""

    def rate(self, point: Point) -> float:
        return point.chunk_rows / (0.01 + 0.00001 * point.chunk_rows**2)


def test_where_larger_chunks_bring_nothing_smaller_ones_are_tried():
    search, asked = searched(Quadratic(), start=512)
    assert best(search) == Point(32, 1)
    assert max(point.chunk_rows for point in asked) == 1024


def test_overload_ends_the_growth_in_flight():
    search, asked = searched(Server(workers=64, overload=16))
    assert best(search).concurrency == 8
    assert max(point.concurrency for point in asked) == 16
    assert search.trial(Point(64, 16)).verdict == "errors"


def test_when_nothing_keeps_the_bounds_there_is_no_best_and_few_trials():
    search, asked = searched(Server(), bounds=Bounds(p95=0.0001))
    assert search.best is None
    assert [point.concurrency for point in asked] == [1] * len(asked)
    assert len(asked) <= 7


def test_no_more_rows_are_in_flight_than_the_input_has():
    search, asked = searched(Server(workers=64), n_rows=500)
    assert max(point.chunk_rows * point.concurrency for point in asked) <= 500
    assert best(search)


def test_a_bound_that_one_retry_breaks_is_measured_once_more():
    search = Search([64], [1, 2], start=64, bounds=BOUNDS)
    point = search.next()
    assert point == Point(64, 1)
    search.record(point, Measurement(rows=640, seconds=1.0, requests=50, retried=1, latency_p50=0.1, latency_p95=0.1))
    assert search.next() == point, "1 of 50 may be an accident"
    search.record(point, Measurement(rows=6400, seconds=10.0, requests=100, latency_p50=0.1, latency_p95=0.1))
    assert search.next() == Point(64, 2)
    assert search.trial(point).errors == pytest.approx(1 / 150)


def test_a_point_that_is_skipped_is_not_asked_for_again_and_the_others_are():
    search = Search(SIZES, STEPS, start=64, bounds=BOUNDS)
    asked, server = [], Server(workers=64)
    while (point := search.next()) is not None:
        asked.append(point)
        if point.concurrency > 4:
            search.skip(point)
        else:
            search.record(point, server.measured(point, random.Random(0)))
    assert len([point for point in asked if point.concurrency > 4]) == len({p for p in asked if p.concurrency > 4})
    assert best(search).concurrency == 4
    assert any(point.chunk_rows > 64 for point in asked)


def test_it_says_that_more_in_flight_may_be_faster_where_the_best_is_at_the_end():
    assert searched(Server(workers=1000))[0].still_growing
    assert not searched(Server(workers=4))[0].still_growing


def test_a_slump_of_one_trial_does_not_end_the_climb():
    """Noise in one trial is stepped over: the next one shows that it was noise."""
    server = Server(workers=32, per_row=10.0)
    search = Search([64], STEPS, start=64, bounds=BOUNDS)
    slumped = False
    while (point := search.next()) is not None:
        measurement = server.measured(point, random.Random(0))
        if point.concurrency == 4 and not slumped:
            slumped = True
            measurement = Measurement(
                rows=measurement.rows, seconds=measurement.seconds * 3, requests=100, latency_p50=1.0, latency_p95=1.0
            )
        search.record(point, measurement)
    assert best(search).concurrency == 32


servers = st.builds(
    Server,
    workers=st.integers(1, 200),
    fixed=st.floats(0.001, 2.0),
    per_row=st.floats(0.00001, 0.1),
    largest=st.integers(1, 4096),
)


def fastest(server: Server) -> float:
    """Return the most rows/s of all pairs, as a search of the whole grid would."""
    return max(server.rate(Point(size, step)) for size in SIZES for step in STEPS if size <= server.largest)


@given(servers, st.sampled_from(SIZES))
def test_without_a_bound_it_comes_near_to_the_best_of_the_grid(server: Server, start: int):
    """A climb ends when two steps in a row bring less than 5 %: larger chunks can then bring at most 10 %."""
    search, asked = searched(server, start=start)
    assert server.rate(best(search)) >= (1 - GROWTH) * 0.9 * fastest(server)
    assert len(asked) <= 2 * (len(SIZES) + 2 * len(STEPS))


@given(servers, st.floats(0.01, 20.0), st.floats(0, 0.5), st.integers(0, 1000))
def test_the_choice_meets_the_bounds_and_is_the_cheapest_of_the_fast(
    server: Server, p95: float, noise: float, seed: int
):
    noisy = Server(server.workers, server.fixed, server.per_row, server.largest, noise)
    search, asked = searched(noisy, bounds=Bounds(p95=p95), seed=seed)
    good = [trial for trial in search.trials if trial.verdict == "ok"]
    assert (search.best is None) == (not good)
    assert len({trial.point for trial in search.trials}) == len(search.trials) == len(set(asked))
    if search.best is not None:
        assert server.latency(search.best.point) <= p95
        assert search.best.point.chunk_rows <= server.largest
        most = max(trial.rows_per_second for trial in good)
        as_fast = [trial for trial in good if trial.rows_per_second >= (1 - GROWTH) * most]
        assert search.best in as_fast
        assert search.best.point.concurrency == min(trial.point.concurrency for trial in as_fast)


@given(st.integers(0, 10_000))
def test_with_a_tenth_of_noise_it_still_comes_near_to_the_knee(seed: int):
    server = Server(workers=8, fixed=0.1, per_row=0.01, noise=0.1)
    search, _ = searched(server, seed=seed)
    assert server.rate(best(search)) >= 0.7 * fastest(server)
