"""Search for runs that stall, lose rows, fail good rows, or send too many requests, in virtual time."""

from __future__ import annotations

import pytest

from tests.simulator.troubled import RECORDED, Troubled, Troubles, faults, recorded, run


@pytest.mark.parametrize("start", range(0, len(RECORDED), 20))
def test_no_good_row_fails_no_run_stalls_and_recovery_sends_as_many_requests_as_it_did(start: int) -> None:
    """Each decision of recovery costs requests; `troubled` writes the record again after a change that is wanted."""
    seeds = RECORDED[start : start + 20]
    ends = {seed: run(seed) for seed in seeds}
    assert {seed: found for seed in seeds if (found := faults(ends[seed]))}.keys() <= {646}  # a known defect, below
    before = recorded()
    changed = {seed: (before[seed], end.server.sent) for seed, end in ends.items() if end.server.sent != before[seed]}
    assert not changed, "if that is wanted: python -m tests.simulator.troubled"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_thousands_of_runs_lose_no_row_fail_no_good_row_do_not_stall_and_send_not_too_much() -> None:
    broken = {seed: found for seed in range(4000) if (found := faults(run(seed)))}
    # Known defects: in 646 a bad row of almost each kind at the edges of the chunks, beside random failures, costs 307
    # requests in place of 281; in 721 the endpoint breaks off before its first success, so that attempts alone decide.
    assert broken.keys() <= {646, 721}, broken


@pytest.mark.parametrize("seed", [129, 348, 664, 1703, 3938])
def test_chunks_that_all_hold_a_bad_row_do_not_stall_a_run(seed: int) -> None:
    """No new chunk shows that the endpoint works, so a control request has to show it before the run stalls."""
    assert faults(run(seed)) == []


def test_an_outage_of_half_a_minute_at_the_end_of_a_run_fails_no_row() -> None:
    for signal in ("500", "502", "503", "refused", "disconnect"):
        for start in (2.0, 2.5):
            calm = Troubles.drawn(0)._replace(
                warm=False, n_rows=10, chunk_rows=1, concurrency=1, latency=0.3, chance={}, slow=0.0, bad={},
                down=((start, start + 30, signal),),
            )  # fmt: skip
            seen = run(0, calm)
            assert seen.result.ok.all(), signal
            assert isinstance(seen.server, Troubled)
            assert seen.server.causes.get("down", 0) <= 20
