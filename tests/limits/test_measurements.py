"""The measurements of "auto": what is due to the load, and what comes at any load."""

from __future__ import annotations

from math import exp, inf, log, sqrt

import numpy as np
import pytest

from fanout.limits.measurements import Background, Drift, Round, Stragglers


def round_of(*latencies: float, in_flight: float = 10) -> Round:
    measured = Round(0.0, 10)
    for seconds in latencies:
        measured.add(seconds, in_flight)
    return measured


def test_a_round_has_the_mean_and_its_standard_error():
    latencies = [0.1, 0.2, 0.4, 0.9]
    measured = round_of(*latencies)
    assert measured.seconds == pytest.approx(np.mean(latencies))
    assert measured.level == pytest.approx(np.mean(np.log(latencies)))
    assert measured.variance == pytest.approx(np.var(np.log(latencies), ddof=1) / 4)
    assert (measured.n, measured.width) == (4, 10)
    assert round_of(1.0).variance == inf


def test_a_merged_round_is_that_of_all_answers():
    merged, whole = round_of(0.1, 0.3, in_flight=4), Round(0.0, 10)
    merged.merge(round_of(0.5, 0.2, 0.7, in_flight=9))
    for seconds, in_flight in [(0.1, 4), (0.3, 4), (0.5, 9), (0.2, 9), (0.7, 9)]:
        whole.add(seconds, in_flight)
    for name in ("n", "width", "seconds", "level", "variance"):
        assert getattr(merged, name) == pytest.approx(getattr(whole, name)), name


def answers(n: int, *, losses: int = 0, seconds: float = 0.1) -> Stragglers:
    stragglers = Stragglers()
    for _ in range(n):
        stragglers.on_answer(seconds)
    for _ in range(losses):
        stragglers.on_loss(0.0)
    return stragglers


def test_an_answer_is_a_straggler_above_two_and_a_half_times_the_median():
    assert answers(3).ceiling == inf
    stragglers = answers(4)
    assert stragglers.ceiling == pytest.approx(0.25)
    for _ in range(40):
        stragglers.on_answer(1.0)
    assert stragglers.ceiling == pytest.approx(2.5), "the median is that of late"


def test_the_time_beyond_that_of_others_is_a_mean_over_all_answers():
    stragglers = answers(30)
    assert stragglers.seconds == 0
    stragglers.on_answer(31.25)
    assert stragglers.seconds == pytest.approx(31 / 31)
    stragglers.on_loss(31.0)
    assert stragglers.seconds == pytest.approx(62 / 31)
    few = answers(4)
    few.on_loss(10.0)
    assert few.seconds == pytest.approx(10 / 20), "so few answers are no mean"


@pytest.mark.parametrize(("n", "losses"), [(4, 4), (20, 4), (100, 20), (500, 100), (501, 50)])
def test_up_to_a_fifth_of_the_requests_is_lost_by_accident(n, losses):
    stragglers = answers(n)
    assert [stragglers.on_loss(1.0) for _ in range(losses + 1)] == [True] * losses + [False]


def test_old_stragglers_count_less():
    stragglers = answers(500)
    stragglers.on_loss(500.0)
    assert stragglers.seconds == pytest.approx(1.0)
    stragglers.on_answer(0.1)
    assert stragglers.seconds == pytest.approx(1.0, rel=0.01), "their share stays"
    for _ in range(200):
        stragglers.on_answer(0.1)
    assert stragglers.seconds == pytest.approx(250 / 450.5), "and those of late count in full"


def most_explained(background: Background, requests: int, presumed: float = 0.0) -> int:
    """The largest number of failures that chance explains."""
    explained = [n for n in range(requests + 1) if background.explains(requests, n, presumed=presumed)]
    assert explained == list(range(len(explained)))
    return len(explained) - 1


@pytest.mark.parametrize(
    ("learnt", "requests", "presumed", "most"),
    [
        ((0, 0), 100, 0.0, 0),
        ((0, 0), 100, 0.1, int(10 + 3 * sqrt(10) + 1)),
        ((0, 0), 10, 0.1, int(2 + 3 * sqrt(2) + 1)),  # as of twenty requests
        ((70, 2), 100, 0.0, 0),  # accidents
        ((70, 3), 1000, 0.0, int(30 + 3 * sqrt(30) + 1)),  # of the 70, and of 30 presumed
        ((70, 3), 1000, 0.1, int(100 + 3 * sqrt(100) + 1)),
        ((100, 90), 100, 0.0, int(20 + 3 * sqrt(20) + 1)),  # a fifth at most
    ],
)
def test_failures_within_three_standard_deviations_of_the_background_are_explained(learnt, requests, presumed, most):
    background = Background()
    background.learn(*learnt)
    assert most_explained(background, requests, presumed) == most
    assert background.known is (learnt[1] >= 3)


def test_two_backgrounds_together_have_the_requests_and_failures_of_both():
    merged = Background(40, 2).merged(Background(30, 1))
    assert most_explained(merged, 1000) == most_explained(Background(70, 3), 1000) > 0


def test_old_requests_count_less_in_the_background():
    background = Background()
    background.learn(1000, 10)
    assert most_explained(background, 1000) == 20
    background.learn(1, 0)
    assert most_explained(background, 1000) == 19
    background.learn(400, 0)
    assert most_explained(background, 1000) == 13


@pytest.mark.parametrize(("failures", "is_too_large"), [(28, False), (29, True)])
def test_more_than_a_fifth_of_failures_is_no_background(failures, is_too_large):
    assert Background(100, failures).too_large is is_too_large


def drift(*rounds: Round) -> float:
    """The difference between two rounds without a variance of their own that chance explains."""
    measured = Drift()
    for each in rounds:
        measured.learn(each, each.seconds)
    return measured.noise(round_of(1.0, 1.0), round_of(1.0, 1.0))


FIRST = round_of(*[1.0] * 40)  # four seconds of ten requests in flight


def test_a_first_round_is_presumed_the_noisier_the_shorter_it_is():
    assert drift(FIRST) == pytest.approx(2 * sqrt(2 * 0.02 / 16))
    assert drift(round_of(*[0.01] * 40)) == pytest.approx(2 * sqrt(2 * 0.02))


@pytest.mark.parametrize(
    ("second", "step"),
    [
        (round_of(*[exp(0.2)] * 40), 0.2),
        (round_of(*[exp(-0.2)] * 40), 0.2),
        (round_of(*[exp(5)] * 40), 0.3),  # a change of the server
        (round_of(*[exp(0.2)] * 40, in_flight=11), 0.2 - log(1.1)),  # of which the load explains a part
        (round_of(*[exp(0.05)] * 40, in_flight=11), 0.0),
    ],
)
def test_a_tenth_of_the_difference_between_rounds_that_should_be_alike_is_learnt(second, step):
    before = 0.02 / 16
    assert drift(FIRST, second) == pytest.approx(2 * sqrt(2 * (before + (step**2 / 2 - before) / 10)))


def test_rounds_of_other_concurrency_need_not_be_alike():
    assert drift(FIRST, round_of(*[exp(0.2)] * 40, in_flight=12)) == drift(FIRST)


def test_the_noise_has_the_variance_of_both_rounds_in_it():
    measured, one, other = Drift(), round_of(1.0, exp(0.2)), round_of(1.0, exp(0.4))
    assert measured.noise(one, other) == pytest.approx(2 * sqrt(one.variance + other.variance))
