"""The arithmetic of shared limits: no window exceeds a rate, no count its limit, whatever the clients do."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanout import Limits
from fanout.limits import Cost
from fanout.limits.shared import HORIZON, LIFETIME, Bounds, Call, Decided, Report, Want, bounds_of
from fanout.limits.shared_redis import script_text
from fanout.limits.shared_state import SharedState

NAMES = [f"{unit}_per_{period}" for unit in ("requests", "rows", "tokens") for period in ("second", "minute")]
RATES = st.dictionaries(st.sampled_from(NAMES), st.floats(0.5, 1000), min_size=1, max_size=3)
COSTS = st.tuples(st.integers(0, 20), st.integers(0, 200)).map(lambda much: Cost(1, *much))
WANTS = st.lists(COSTS, max_size=4)
STEPS = st.lists(st.tuples(st.floats(0, 3), st.sampled_from("abc"), WANTS, st.integers(0, 3)), max_size=30)


class Clients:
    """Clients that report truthfully, and send each granted request at its start."""

    def __init__(self, bounds, decide):
        self.bounds, self.decide = bounds, decide
        self.reports = dict.fromkeys("abc", Report())
        self.sent = []
        self.answers = []

    def step(self, now, name, costs, ended, *, price=0.0, tokens=0.0):
        report = self.reports[name]
        finished = min(ended, report.held)
        report = report._replace(
            held=report.held - finished, unsent=0, sent=report.sent + report.unsent,
            cost=report.cost + price * finished, cost_held=report.cost_held - price * finished,
            tokens=report.tokens + tokens * finished, tokens_held=report.tokens_held - tokens * finished,
        )  # fmt: skip
        wants = tuple(Want("e", cost, price, tokens) for cost in costs)
        reply = self.decide(Call(name, "", "state", report, wants, 0.0), now)
        for cost, answer in zip(costs, reply.answers, strict=True):
            if answer.decided is Decided.GRANTED:
                self.sent.append((now + answer.seconds, cost))
                report = report._replace(
                    held=report.held + 1, unsent=report.unsent + 1,
                    cost_held=report.cost_held + price, tokens_held=report.tokens_held + tokens,
                )  # fmt: skip
        self.reports[name] = report
        self.answers.append(reply)
        return reply


def in_python(bounds):
    state = SharedState(bounds)
    return Clients(bounds, lambda call, now: state.reserve(call, now)[0])


def most_in_window(sent, seconds):
    return max(sum(much for other, much in sent if first <= other <= first + seconds) for first, _ in sent)


@given(rates=RATES, burst=st.floats(0, 2), steps=STEPS, window=st.floats(0.1, 80))
def test_no_window_holds_more_than_its_rate_and_the_burst(rates, burst, steps, window):
    bounds = bounds_of(Limits(**rates, burst=burst, concurrency="auto"))
    clients, now = in_python(bounds), 1000.0
    for wait, name, costs, ended in steps:
        now += wait
        reply = clients.step(now, name, costs, ended)
        assert all(answer.seconds <= HORIZON + 1e-6 for answer in reply.answers if answer.decided is Decided.GRANTED)
    for rate in bounds.rates:
        sent = [(start, getattr(cost, rate.unit)) for start, cost in clients.sent]
        if sent:
            allowed = window / rate.interval + max(rate.capacity, *(much for _, much in sent), 0)
            assert most_in_window(sent, window) <= allowed * (1 + 1e-9) + 1e-4 / rate.interval


@given(rates=RATES, burst=st.floats(0, 2))
def test_clients_that_ask_when_they_are_asked_to_use_the_whole_rate(rates, burst):
    bounds = bounds_of(Limits(**rates, burst=burst, concurrency="auto"))
    clients, now, cost = in_python(bounds), 1000.0, Cost(1, 2, 3)
    for turn in range(300):
        (answer,) = clients.step(now, "abc"[turn % 3], [cost], 3).answers
        now += answer.seconds if answer.decided is Decided.LATER else 0.0
    slowest = min(1 / (rate.interval * getattr(cost, rate.unit)) for rate in bounds.rates)
    # The clients ask without a pause, so that the last start is as early as the slowest rate allows.
    n, last = len(clients.sent), max(start for start, _ in clients.sent)
    assert n <= (last - 1000.0) * slowest * 1.0001 + max(rate.capacity for rate in bounds.rates) + 1
    assert n >= (last - 1000.0) * slowest * 0.9999 - 1


@given(limit=st.integers(1, 6), steps=STEPS)
def test_permits_of_living_clients_never_exceed_the_concurrency(limit, steps):
    clients, now = in_python(Bounds(concurrency=limit)), 1000.0
    for wait, name, costs, ended in steps:
        now += wait / 10  # no client is silent for so long that its permits expire
        clients.step(now, name, costs, ended)
        assert sum(report.held for report in clients.reports.values()) <= limit


@given(limit=st.integers(1, 20), steps=STEPS)
def test_no_more_requests_are_sent_than_all_may(limit, steps):
    clients, now = in_python(Bounds(max_requests=limit)), 1000.0
    for wait, name, costs, ended in steps:
        now += wait
        clients.step(now, name, costs, ended)
        assert sum(report.sent + report.unsent for report in clients.reports.values()) <= limit


@given(limit=st.integers(1, 20), steps=STEPS)
def test_no_more_is_spent_than_all_may_with_what_is_in_flight(limit, steps):
    clients, now = in_python(Bounds(max_cost=float(limit), max_tokens=100.0)), 1000.0
    for wait, name, costs, ended in steps:
        now += wait
        clients.step(now, name, costs, ended, price=1.0, tokens=7.0)
        assert sum(report.cost + report.cost_held for report in clients.reports.values()) <= limit
        assert sum(report.tokens + report.tokens_held for report in clients.reports.values()) <= 100


ONE = Cost(1, 1, 1)


def call(client="a", *, held=0, wants=1, state="", sent=0, unsent=0, cost=ONE):
    report = Report(held=held, unsent=unsent, sent=sent)
    return Call(client, state, "new", report, (Want("e", cost, 1.0, 1.0),) * wants, 0.0)


def decided(reply):
    return [answer.decided for answer in reply[0].answers]


def test_the_permits_of_a_client_that_died_become_free():
    state = SharedState(Bounds(concurrency=2))
    state.reserve(call("dead", wants=2), 0.0)
    assert decided(state.reserve(call("a"), LIFETIME - 0.1)) == [Decided.LATER]
    assert decided(state.reserve(call("a"), LIFETIME + 0.1)) == [Decided.GRANTED]


def test_a_client_that_waits_gets_its_share_of_the_permits():
    state = SharedState(Bounds(concurrency=4))
    assert decided(state.reserve(call("a", wants=5), 0.0)) == [*[Decided.GRANTED] * 4, Decided.LATER]
    reply, tells = state.reserve(call("b"), 0.1)
    assert reply.answers[0].decided is Decided.LATER
    assert tells
    # One of a's requests has ended; a wants another one, but b has less than its share.
    reply, tells = state.reserve(call("a", held=3), 0.2)
    assert (reply.answers[0].decided, reply.others_wait, tells) == (Decided.LATER, True, True)
    assert decided(state.reserve(call("b"), 0.3)) == [Decided.GRANTED]


def test_a_client_that_dies_counts_with_what_it_has_sent_and_may_have_spent():
    state = SharedState(Bounds(max_requests=3, max_cost=10.0))
    state.reserve(Call("dead", "", "new", Report(held=1, sent=2, cost=5.0, cost_held=4.5), (), 0.0), 0.0)
    later = LIFETIME + 1
    assert decided(state.reserve(call("a", wants=0), later)) == []
    assert decided(state.reserve(call("a"), later)) == [Decided.BUDGET]
    assert decided(state.reserve(call("a", sent=1), later)) == [Decided.MAX_REQUESTS]


def test_a_request_that_a_client_was_granted_before_it_died_counts_as_sent():
    state = SharedState(Bounds(max_requests=3))
    assert decided(state.reserve(call("dead", wants=2), 0.0)) == [Decided.GRANTED] * 2
    assert decided(state.reserve(call("a", wants=2), LIFETIME + 1)) == [Decided.GRANTED, Decided.LATER]
    assert decided(state.reserve(call("a", sent=1), LIFETIME + 2)) == [Decided.MAX_REQUESTS]
    # It was not dead, and knows what it has sent.
    assert decided(state.reserve(call("dead", sent=1), LIFETIME + 3)) == [Decided.GRANTED]


@pytest.mark.parametrize("bound", ["concurrency", "max_requests", "max_cost", "max_tokens"])
def test_each_bound_alone_makes_requests_ask_for_a_start_and_cooldowns_do_not(bound):
    assert Bounds(**{bound: 1}).has_limits
    assert bounds_of(Limits(rows_per_second=1, concurrency="auto")).has_limits
    assert not Bounds().has_limits


@pytest.mark.parametrize(("bound", "is_kept"), [("max_requests", True), ("max_tokens", True), ("concurrency", False)])
def test_the_record_of_a_client_that_died_is_kept_as_long_as_it_counts(bound, is_kept):
    state = SharedState(Bounds(**{bound: 9}))
    state.reserve(call("dead"), 0.0)
    state.reserve(call("a"), LIFETIME + 1)
    assert ("dead" in state.clients) is is_kept


def test_a_report_that_is_repeated_changes_nothing():
    state = SharedState(Bounds(max_requests=10, concurrency=5))
    for _ in range(5):
        state.reserve(call("a", wants=0, held=2, sent=7, unsent=1), 0.0)
    assert decided(state.reserve(call("b", wants=3), 0.1)) == [Decided.GRANTED] * 2 + [Decided.LATER]


def test_a_cooldown_keeps_all_clients_from_one_endpoint_and_a_shorter_one_does_not_end_it():
    state = SharedState(Bounds())
    state.cool_down("e", 2.0, 10.0)
    state.cool_down("e", 0.5, 10.0)
    (answer,) = state.reserve(call("a"), 11.0)[0].answers
    assert answer.decided is Decided.LATER
    assert answer.seconds == pytest.approx(1.0)
    other = call("a")._replace(wants=(Want("other", Cost()),))
    assert decided(state.reserve(other, 11.0)) == [Decided.GRANTED]
    assert decided(state.reserve(call("a"), 12.0)) == [Decided.GRANTED]


def test_a_state_that_replaces_a_lost_one_begins_without_a_burst():
    limits = Limits(requests_per_second=2, burst=5, concurrency="auto")
    fresh, replaced = SharedState(bounds_of(limits)), SharedState(bounds_of(limits))
    assert fresh.reserve(call(wants=5), 0.0)[0].answers[-1].seconds == 0
    assert replaced.reserve(call(wants=1, state="old"), 0.0)[0].answers[0].seconds == pytest.approx(0.5)


def test_tokens_beyond_the_claim_are_charged():
    state = SharedState(bounds_of(Limits(tokens_per_second=10, concurrency="auto")))
    state.reserve(call(cost=Cost(1, 1, 5)), 0.0)
    charged = call(cost=Cost(1, 1, 1))._replace(charge=3.0)
    assert state.reserve(charged, 0.0)[0].answers[0].seconds == pytest.approx(0.8)


def test_the_script_for_redis_numbers_the_decisions_as_python_does():
    names, numbers = re.search(r"^local (GRANTED[\w, ]*) = ([\d, ]+)$", script_text(), re.MULTILINE).groups()
    of_script = dict(zip(names.split(", "), map(int, numbers.split(", ")), strict=True))
    assert of_script == {decision.name: decision.value for decision in Decided}


def test_the_bounds_are_those_of_the_settings():
    limits = Limits(requests_per_second=5, tokens_per_minute=60, burst=0.5, concurrency=3, max_requests=7, max_cost=2.0)
    bounds = bounds_of(limits)
    assert [(one.name, one.unit, one.interval, one.capacity) for one in bounds.rates] == [
        ("requests_per_second", "requests", 0.2, 2.5), ("tokens_per_minute", "tokens", 1.0, 30.0),
    ]  # fmt: skip
    assert (bounds.concurrency, bounds.max_requests, bounds.max_cost, bounds.max_tokens) == (3, 7, 2.0, None)
    assert bounds_of(Limits(concurrency="auto")).concurrency is None
