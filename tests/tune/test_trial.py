"""Measurements are combined, and judged by the bounds."""

from __future__ import annotations

import pytest

from fanout.tune.trial import Bounds, Measurement, Point, combine, is_near_miss

POINT = Point(64, 8)
BOUNDS = Bounds(p95=1.0, errors=0.01)


def measurement(**values: object) -> Measurement:
    return Measurement(**{"rows": 640, "seconds": 2.0, "requests": 10, "latency_p50": 0.1, "latency_p95": 0.2} | values)


def test_two_measurements_are_one_of_all_rows_and_seconds():
    trial = combine(POINT, [measurement(), measurement(rows=1280, seconds=1.0, requests=30, latency_p95=0.6)], BOUNDS)
    assert (trial.rows_per_second, trial.requests, trial.measured, trial.point) == (640.0, 40, 2, POINT)
    assert trial.latency_p95 == pytest.approx(0.5), "weighted by requests"


@pytest.mark.parametrize(
    ("values", "errors", "verdict"),
    [
        ({}, 0.0, "ok"),
        ({"requests": 100, "retried": 1}, 0.01, "ok"),
        ({"requests": 100, "retried": 2}, 0.02, "errors"),
        ({"failed": 10}, 10 / 650, "errors"),
        ({"rows": 0, "failed": 0}, 0.0, "errors"),
        ({"latency_p95": 1.0}, 0.0, "ok"),
        ({"latency_p95": 1.1}, 0.0, "p95"),
        ({"latency_p95": 1.1, "retried": 5}, 0.5, "errors"),
        ({"refused": "HTTP 413", "retried": 5}, 0.5, "refused"),
    ],
)
def test_the_first_bound_that_is_broken_is_named(values, errors, verdict):
    trial = combine(POINT, [measurement(**values)], BOUNDS)
    assert trial.errors == pytest.approx(errors)
    assert trial.verdict == verdict


def test_without_an_exchange_there_is_no_latency():
    trial = combine(POINT, [Measurement()], BOUNDS)
    assert (trial.latency_p50, trial.latency_p95, trial.rows_per_second) == (None, None, 0.0)


@pytest.mark.parametrize(
    ("values", "accident"),
    [
        ({"latency_p95": 1.2}, True),
        ({"latency_p95": 1.3}, False),
        ({"requests": 10, "retried": 2}, True),
        ({"requests": 10, "retried": 3}, False),
        ({"refused": "HTTP 413"}, False),
        ({}, False),
    ],
)
def test_a_bound_that_is_broken_by_little_may_be_so_by_accident(values, accident):
    assert is_near_miss(combine(POINT, [measurement(**values)], BOUNDS), BOUNDS) is accident
