"""Endpoints with a hidden cap on the size of requests, in virtual time. ``pytest -s`` prints the figures."""

from __future__ import annotations

import logging
from functools import cache
from math import ceil, log2
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fanout import Limits, RetryPolicy, RunStopped
from tests.simulator.capped import SIGNALS, Capped, TooLarge, run, texts, words

TEXTS = texts(20_000)
WHOLE = len(TEXTS) // 64


class Cap(NamedTuple):
    too_large: TooLarge
    knowing: dict[str, Any]
    """Options of a client that knows it."""

    most: float = 0.1
    """Part by which one that does not may need more requests."""


def at_most_rows(n: int) -> TooLarge:
    return lambda rows, _: len(rows) > n


def at_most_bytes(n: int) -> TooLarge:
    return lambda _, n_bytes: n_bytes > n


def at_most_tokens(n: int) -> TooLarge:
    return lambda rows, _: sum(map(words, rows)) > n


CAPS = {
    **{f"{n} rows": Cap(at_most_rows(n), {"chunk_rows": n}) for n in (5, 8, 24)},
    **{f"{n} bytes": Cap(at_most_bytes(n), {"chunk_max_bytes": n}) for n in (4500, 8000)},
    **{
        f"{n} tokens": Cap(at_most_tokens(n), {"chunk_max_tokens": n, "count_tokens": words}, 0.25)
        for n in (1200, 2400)
    },
}


@cache
def requests_of_a_client_that_knows(name: str) -> int:
    """Return the requests for all texts of a client to which the cap is no secret: the server refuses none."""
    knowing = run(Capped(CAPS[name].too_large, "413"), TEXTS, **CAPS[name].knowing)
    assert knowing.server.refused == 0
    return knowing.requests


@pytest.mark.parametrize("signal", SIGNALS)
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in ("8 rows", "8000 bytes") else pytest.mark.slow)
     for name in CAPS],
)  # fmt: skip
def test_row_74_a_hidden_cap_costs_few_more_requests_than_knowing_it(name: str, signal: str) -> None:
    cap = CAPS[name]
    seen = run(Capped(cap.too_large, signal), TEXTS)
    needed = requests_of_a_client_that_knows(name)
    more = seen.requests / needed - 1
    print(f"\n{name:12} {signal:12} {needed:5} requests, {more:+6.1%}, {seen.server.refused} refused", end="")
    assert seen.result.ok.all()
    assert seen.result.values.tolist() == [len(text) for text in TEXTS]
    assert more <= cap.most


@pytest.mark.parametrize("name", ["8 rows", "8000 bytes"])
def test_row_74_a_counted_unit_is_kept_too_where_the_user_bounds_another(name: str) -> None:
    cap = CAPS[name]
    options = {"chunk_max_bytes": 20_000, "count_tokens": words}
    knowing = run(Capped(cap.too_large, "413"), TEXTS, **options | cap.knowing)
    seen = run(Capped(cap.too_large, "413"), TEXTS, **options)
    assert seen.result.ok.all()
    assert seen.requests <= 1.1 * knowing.requests


@settings(max_examples=100, deadline=None)
@given(
    signal=st.sampled_from(SIGNALS),
    lengths=st.lists(st.integers(1, 60), min_size=4, max_size=150),
    bad=st.sets(st.integers(4, 149), max_size=3),
    rows=st.integers(1, 40),
    n_bytes=st.integers(80, 3000),
    chunk_rows=st.integers(1, 64),
    concurrency=st.integers(1, 8),
    seed=st.integers(0, 9),
)
def test_every_row_that_alone_is_under_the_cap_is_answered_and_the_others_fail(
    signal: str,
    lengths: list[int],
    bad: set[int],
    rows: int,
    n_bytes: int,
    chunk_rows: int,
    concurrency: int,
    seed: int,
) -> None:
    sent = [f"{i} {'x' * length}" for i, length in enumerate(lengths)]
    wrong = frozenset(sent[i] for i in bad if i < len(sent))
    server = Capped(lambda r, b: len(r) > rows or b > n_bytes, signal, bad=wrong, seed=seed)
    seen = run(server, sent, chunk_rows=chunk_rows, limits=Limits(concurrency=concurrency))
    assert seen.result.ok.tolist() == [text not in wrong for text in sent]
    assert seen.result.pending == ()
    assert all(failure.reason for failure in seen.result.failures)


@pytest.mark.parametrize("chunk_rows", [2, 5])
def test_few_rows_under_a_cap_of_one_are_all_answered(chunk_rows: int) -> None:
    sent = [f"{i} x" for i in range(5)]
    server = Capped(lambda rows, _bytes: len(rows) > 1, "502", bad=frozenset(sent[4:]))
    seen = run(server, sent, chunk_rows=chunk_rows, limits=Limits(concurrency=1))
    assert seen.result.ok.tolist() == [True] * 4 + [False]


def test_bad_rows_at_the_end_of_a_run_with_one_request_in_flight_fail_by_name() -> None:
    sent = texts(2000)
    bad = frozenset(sent[i] for i in (1, 37, 1997, 1999))
    seen = run(Capped(lambda _rows, _bytes: False, "disconnect", bad=bad), sent, limits=Limits(concurrency=1))
    assert [failure.start for failure in seen.result.failures] == [1, 37, 1997, 1999]


@pytest.mark.parametrize("signal", SIGNALS)
def test_a_row_that_is_over_the_cap_alone_fails_with_its_reason_and_no_other_does(signal: str) -> None:
    sent = texts(1000)
    sent[500] = "x" * 20_000
    seen = run(Capped(at_most_bytes(15_000), signal), sent)
    assert [(failure.start, failure.stop) for failure in seen.result.failures] == [(500, 501)]
    assert seen.result.ok.sum() == 999


@settings(max_examples=30, deadline=None)
@given(
    signal=st.sampled_from(SIGNALS),
    bad=st.sets(st.integers(0, 999).map(lambda half: 2 * half + 1), min_size=1, max_size=8),
    seed=st.integers(0, 99),
    concurrency=st.sampled_from([1, 4, 16]),
)
def test_bad_rows_are_not_taken_for_a_limit_on_size(signal: str, bad: set[int], seed: int, concurrency: int) -> None:
    sent = texts(2000, seed)
    wrong = frozenset(sent[i] for i in bad)
    server = Capped(lambda _rows, _bytes: False, signal, bad=wrong, seed=seed)
    seen = run(server, sent, limits=Limits(concurrency=concurrency))
    assert [i for i, ok in enumerate(seen.result.ok) if not ok] == sorted(bad)
    spoilt = {i // 64 for i in bad}
    assert sum(rows == 64 for rows, _ in server.sent) >= 2000 // 64 - len(spoilt), "no other chunk is smaller"
    retries = 5 * len(spoilt) + 3 * len(bad)
    assert seen.requests <= 32 + retries + len(bad) * (2 * ceil(log2(64)) + 2)


@pytest.mark.parametrize("signal", SIGNALS)
@pytest.mark.parametrize("noise", [0.01, 0.03])
def test_refusals_by_chance_make_no_chunk_smaller(signal: str, noise: float) -> None:
    server = Capped(lambda _rows, _bytes: False, signal, noise=noise)
    seen = run(server, TEXTS)
    assert seen.result.ok.all()
    if signal not in ("400", "413"):  # which say that the request was at fault
        assert seen.requests <= WHOLE * (1 + 3 * noise) + 10


@pytest.mark.parametrize("start", [0.2, 3.0])
def test_an_outage_causes_no_splits_and_makes_no_chunk_smaller(start: float) -> None:
    server = Capped(lambda _rows, _bytes: False, "500", down=(start, start + 60))
    seen = run(server, TEXTS[:10_000])
    assert seen.result.ok.all()
    assert seen.requests <= 157 + 3 * 16
    assert seen.result.stats.splits <= 2


@pytest.mark.parametrize("signal", ["500", "502", "disconnect", "timeout"])
def test_one_chunk_that_kills_the_worker_is_answered_in_smaller_ones(signal: str) -> None:
    seen = run(Capped(at_most_rows(63), signal), TEXTS[:128], chunk_rows=128)
    assert seen.result.ok.all()
    assert seen.requests <= 5 + 2 * log2(128)


def test_a_server_that_answers_500_to_more_than_8_texts_is_not_slow() -> None:
    seen = run(Capped(at_most_rows(8), "500"), TEXTS[:2000])
    assert seen.result.ok.all()
    assert seen.seconds < 20, "it were 262 when all attempts had to be used up"


def test_a_few_long_texts_at_the_start_make_no_small_chunks_of_the_short_ones_behind_them() -> None:
    sent = ["x" * 9000] * 4 + texts(1000, median=40, sigma=0.3)
    seen = run(Capped(at_most_bytes(10_000), "413"), sent)
    assert seen.result.ok.all()
    assert seen.requests <= 60


def test_one_row_for_many_is_recognized_with_the_advice_to_send_single_rows(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING, "fanout"):
        seen = run(Capped(at_most_rows(1), "one row"), TEXTS[:2000])
    assert seen.result.ok.all()
    assert seen.requests <= 2000 + 16 + 2 * log2(64) + 12
    (advice,) = [record.getMessage() for record in caplog.records]
    assert "chunks.rows = 1" in advice


@pytest.mark.parametrize("signal", ["413", "disconnect"])
def test_chunks_grow_again_when_the_endpoint_takes_more(signal: str) -> None:
    server = Capped(lambda rows, _: len(rows) > (8 if len(server.sent) < 300 else 48), signal)
    seen = run(server, TEXTS)
    assert seen.result.ok.all()
    assert max(rows for rows, _ in server.sent[-200:]) >= 32


@pytest.mark.parametrize("signal", ["413", "500", "disconnect"])
def test_chunks_shrink_in_mid_run_when_the_endpoint_takes_less(signal: str) -> None:
    server = Capped(lambda rows, _: len(rows) > (64 if len(server.sent) < 100 else 8), signal)
    seen = run(server, TEXTS)
    assert seen.result.ok.all()
    assert seen.requests <= 100 + (20_000 - 6400) / 8 * 1.25


def test_an_endpoint_that_answers_nothing_at_all_stops_the_run_after_its_attempts() -> None:
    server = Capped(lambda _rows, _bytes: True, "disconnect")
    with pytest.raises(RunStopped) as caught:
        run(server, TEXTS[:64], retry=RetryPolicy(max_attempts=4))
    assert caught.value.kind == "unreachable"
    assert len(server.sent) == 4
