"""The circuit breaker: successes pay for retries, and an open circuit passes one trial request at a time."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from fanout.upstream.circuit_breaker import CircuitBreaker

if TYPE_CHECKING:
    import pytest


class WaitQueue:
    rung = 0

    def __call__(self) -> None:
        self.rung += 1


def spent(concurrency: int = 16) -> tuple[CircuitBreaker, WaitQueue]:
    wait_queue = WaitQueue()
    breaker = CircuitBreaker(concurrency=concurrency, budget=0.2, suspect_wait=2.0, changed=wait_queue)
    while not breaker.is_open:
        breaker.on_failure(0.0, "anybody")
    return breaker, wait_queue


def test_the_bucket_has_a_token_for_each_request_in_flight_and_never_fewer_than_ten() -> None:
    for concurrency, capacity in ((1, 10), (10, 10), (64, 64)):
        breaker = CircuitBreaker(concurrency=concurrency, budget=0.2, suspect_wait=2.0, changed=WaitQueue())
        for failure in range(capacity):
            assert breaker.wait(0.0, failure) == 0
            assert not breaker.is_open
            breaker.on_failure(0.0, failure)
        assert breaker.is_open


def test_the_bucket_follows_the_limit_on_requests_in_flight() -> None:
    breaker = CircuitBreaker(concurrency=64, budget=0.2, suspect_wait=2.0, changed=WaitQueue())
    breaker.resize(16, suspect_wait=2.0)
    breaker.on_success(first_attempt=True)
    assert breaker.tokens == 16
    breaker.resize(32, suspect_wait=2.0)
    assert breaker.tokens == 16
    for _ in range(100):
        breaker.on_success(first_attempt=True)
    assert breaker.tokens == 32
    breaker.resize(1, suspect_wait=2.0)
    assert breaker.capacity == 10


def test_successes_pay_for_retries() -> None:
    breaker = CircuitBreaker(concurrency=10, budget=0.2, suspect_wait=2.0, changed=WaitQueue())
    for _ in range(5):
        breaker.on_failure(0.0, "a")
    assert breaker.tokens == 5
    breaker.on_success(first_attempt=False)
    assert breaker.tokens == 6
    for _ in range(5):
        breaker.on_success(first_attempt=True)
    assert round(breaker.tokens, 6) == 7
    for _ in range(100):
        breaker.on_success(first_attempt=True)
    assert breaker.tokens == 10


def test_one_trial_is_sent_after_a_second_and_the_others_wait_for_its_outcome() -> None:
    breaker, _ = spent()
    assert 1 <= breaker.wait(0.0, "a") <= 1.25
    assert 0 < breaker.wait(0.9, "a") <= 0.35
    assert breaker.wait(1.3, "a") == 0
    assert breaker.is_trial("a")
    assert breaker.wait(1.3, "a") == 0
    assert breaker.wait(1.3, "b") == inf
    assert not breaker.is_trial("b")


def test_the_interval_between_trials_doubles_up_to_30_s() -> None:
    breaker, wait_queue = spent()
    now, waits = 0.0, []
    for _ in range(8):
        wait = breaker.wait(now, "a")
        waits.append(wait)
        now += wait
        assert breaker.wait(now, "a") == 0
        rung = wait_queue.rung
        breaker.on_failure(now, "a")
        assert wait_queue.rung == rung + 1
    for wait, least in zip(waits, [1, 2, 4, 8, 16, 30, 30, 30], strict=True):
        assert least <= wait <= 1.25 * least


def test_clients_whose_circuits_open_together_do_not_send_trials_together() -> None:
    waits = {spent()[0].wait(0.0, "a") for _ in range(20)}
    assert len(waits) > 10
    assert max(waits) > 1.05


def test_late_failures_of_requests_in_flight_do_not_delay_the_trial() -> None:
    breaker, _ = spent()
    wait = breaker.wait(0.0, "a")
    for _ in range(20):
        breaker.on_failure(0.5, "b")
    assert breaker.wait(0.0, "a") == wait


def test_any_success_closes_the_circuit_with_half_a_bucket() -> None:
    breaker, wait_queue = spent()
    breaker.on_success(first_attempt=True)
    assert not breaker.is_open
    assert breaker.tokens == 8.2
    assert wait_queue.rung == 2
    assert breaker.wait(0.0, "a") == 0


def test_a_trial_that_is_refused_closes_the_circuit() -> None:
    breaker, _ = spent()
    breaker.on_refusal("b")
    assert breaker.is_open
    assert breaker.wait(2.0, "a") == 0
    breaker.on_refusal("a")
    assert not breaker.is_open


def test_another_request_becomes_the_trial_after_a_cancelled_one() -> None:
    breaker, wait_queue = spent()
    assert breaker.wait(2.0, "a") == 0
    breaker.forget("b")
    assert breaker.wait(2.0, "b") == inf
    breaker.forget("a")
    assert wait_queue.rung == 2
    assert breaker.wait(2.0, "b") == 0


def test_waiting_requests_become_the_trial_in_turn() -> None:
    breaker, _ = spent()
    now, probes = 0.0, []
    for asker in "abc":
        breaker.wait(now, asker)
    for _ in range(6):
        now += breaker.wait(now, "c")
        for asker in "cba":
            if breaker.wait(now, asker) == 0:
                probes.append(asker)
                break
        breaker.on_failure(now, probes[-1])
        breaker.wait(now, probes[-1])
    assert probes == list("abcabc")


def test_a_request_that_leaves_the_queue_delays_no_other() -> None:
    breaker, wait_queue = spent()
    breaker.wait(0.0, "a")
    assert breaker.wait(2.0, "b") == inf
    rung = wait_queue.rung
    breaker.forget("a")
    assert wait_queue.rung == rung + 1
    assert breaker.wait(2.0, "b") == 0


def test_closing_the_circuit_empties_the_queue() -> None:
    breaker, _ = spent()
    breaker.wait(0.0, "gone")
    breaker.on_success(first_attempt=True)
    while not breaker.is_open:
        breaker.on_failure(5.0, "anybody")
    assert breaker.wait(9.0, "b") == 0, "the one before may never ask again"


def test_a_trial_ends_if_another_request_succeeds_first() -> None:
    breaker, _ = spent()
    assert breaker.wait(2.0, "a") == 0
    breaker.on_success(first_attempt=False)
    assert not breaker.is_trial("a")
    breaker.on_failure(2.0, "a")
    assert breaker.tokens == 8, "its failure costs what any other costs"


def test_a_trial_is_never_delayed_by_more_than_30_s_and_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fanout.upstream.circuit_breaker.uniform", lambda low, high: low)
    breaker, _ = spent()
    now = 0.0
    for _ in range(9):
        wait = breaker.wait(now, "a")
        now += wait
        assert breaker.wait(now, "a") == 0
        breaker.on_failure(now, "a")
    assert wait == 30


def test_its_repr_shows_its_state() -> None:
    breaker, _ = spent()
    assert repr(breaker) == "<CircuitBreaker open, 0.0/16 tokens>"
    breaker.on_success(first_attempt=False)
    assert repr(breaker) == "<CircuitBreaker closed, 9.0/16 tokens>"


def test_the_next_trial_comes_sooner_if_the_rows_of_the_failed_one_may_be_to_blame() -> None:
    breaker, _ = spent()
    now, waits = 0.0, []
    for _ in range(4):
        waits.append(breaker.wait(now, "a"))
        now += waits[-1]
        assert breaker.wait(now, "a") == 0
        breaker.on_failure(now, "a", rows_suspect=True)
    assert all(wait <= 2.5 for wait in waits)


def test_the_intervals_start_again_when_the_circuit_opens_again() -> None:
    breaker, _ = spent()
    for now in (2.0, 5.0, 12.0):
        assert breaker.wait(now, "a") == 0
        breaker.on_failure(now, "a")
    breaker.on_success(first_attempt=False)
    while not breaker.is_open:
        breaker.on_failure(100.0, "a")
    assert 1 <= breaker.wait(100.0, "a") <= 1.25


@given(st.lists(st.sampled_from(["ok", "retried", "failed", "refused", "cancelled"]), max_size=200), st.integers(1, 40))
def test_it_never_deadlocks_and_never_passes_two_trials_at_once(outcomes: list[str], concurrency: int) -> None:
    breaker = CircuitBreaker(concurrency=concurrency, budget=0.2, suspect_wait=2.0, changed=WaitQueue())
    now = 0.0
    for number, outcome in enumerate(outcomes):
        wait = breaker.wait(now, number)
        assert wait < inf  # no other trial is under way, so there is a time to wait for
        now += wait
        assert breaker.wait(now, number) == 0
        if breaker.is_open:
            assert breaker.is_trial(number)
            assert breaker.wait(now, "another") == inf
            breaker.forget("another")
        if outcome in ("ok", "retried"):
            breaker.on_success(first_attempt=outcome == "ok")
            assert not breaker.is_open
        elif outcome == "failed":
            breaker.on_failure(now, number)
        elif outcome == "refused":
            breaker.on_refusal(number)
        else:
            breaker.forget(number)
        assert 0 <= breaker.tokens <= breaker.capacity
        assert not breaker.is_trial(number)
