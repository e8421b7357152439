"""The bar of `map`, and its estimate of the time that is left."""

from __future__ import annotations

import numpy as np
import pytest

import fanout
from fanout.client.progress import RemainingTime, progress_text
from fanout.results import Statistics


def test_the_time_left_follows_the_rate_of_the_last_seconds() -> None:
    remaining = RemainingTime()
    assert remaining.update(0, 0, 1000) is None
    assert remaining.update(10, 100, 900) == pytest.approx(90)
    # The endpoint becomes ten times as slow: the average since the start would say 40 s less and less truly.
    for second in range(11, 60):
        left = remaining.update(second, 100 + second - 10, 900 - second + 10)
    assert left == pytest.approx(1000 - 149)
    for second in range(60, 95):
        left = remaining.update(second, 149, 851)
    assert left is None, "nothing has been done for 30 s"
    assert remaining.update(96, 1000, 0) == 0


def test_the_first_estimate_is_that_since_the_start_and_an_unknown_number_of_rows_has_none() -> None:
    assert RemainingTime().update(10, 100, 50) == pytest.approx(5)
    assert RemainingTime().update(10, 100, None) is None
    assert RemainingTime().update(10, 120, -20) == 0, "the number of rows was estimated too low"


def test_the_line_has_only_what_has_happened() -> None:
    assert progress_text(Statistics(), 1000, None) == "0/1,000 rows, ETA unknown"
    stats = Statistics(ok=1200, failed=2, retries=3)
    assert progress_text(stats, 5000, 61.4) == "1,202/5,000 rows, 2 failed, 3 retries, ETA 0:01:01"


@pytest.mark.usefixtures("shared_local")
def test_map_shows_a_bar_on_stderr_and_returns_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    rows = np.arange(100.0)
    with fanout.SyncClient("local://echo", codec="v1") as client:
        np.testing.assert_array_equal(client.map(rows, progress=True), rows)
    ended = capsys.readouterr()
    assert (ended.out, "100/100 rows, ETA 0:00:00" in ended.err) == ("", True)
