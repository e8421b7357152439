"""The printed plan, trials, report and plot of ``fanout tune``."""

from __future__ import annotations

from dataclasses import replace

from fanout.cli.tuning import plan_text, plot, report_text, trial_text
from fanout.tune import Plan, Trial, TuneReport
from fanout.tune.trial import Point

BEST = Trial(
    point=Point(128, 8), rows_per_second=2048.4, latency_p50=0.4, latency_p95=0.5, errors=0.0, requests=100,
    rows=12800, failed=0, seconds=6.25, measured=2, refused="", verdict="ok",
)  # fmt: skip
SLOW = replace(BEST, point=Point(128, 1), rows_per_second=256.0, measured=1)
REFUSED = replace(
    BEST, point=Point(1256, 8), rows_per_second=0.0, latency_p50=None, latency_p95=None, verdict="refused", measured=1,
    refused="HTTP 413:\ntoo large",
)  # fmt: skip
BUSY = replace(BEST, point=Point(128, 16), verdict="errors", errors=0.25)
LATE = replace(BEST, point=Point(128, 32), verdict="p95", latency_p95=31.0)
FOUND = TuneReport(
    endpoint="http://host/", codec="json", rows=2000, max_p95=30.0, max_errors=0.01,
    trials=(SLOW, BEST, BUSY, LATE, REFUSED), best=BEST, settings={"chunks.rows": 128, "limits.concurrency": 8},
    failed=0, still_growing=False, finished=True, requests=1234, seconds=12.34, exit_code=0,
)  # fmt: skip
PLAN = Plan(
    answers="endpoint", endpoint="http://host/", codec="json", rows=1797, chunk_rows=(1, 64, 1797), concurrency=(1, 2),
    automatic=False, requests=2000, max_rows=500_000, seconds=60.0,
)  # fmt: skip


def test_the_table_has_a_line_for_each_trial_with_its_note():
    lines = report_text(FOUND, "job.toml").splitlines()
    assert lines[:6] == [
        " chunk rows  in flight     rows/s   p50 [ms]   p95 [ms]     errors",
        "        128          1        256      400.0      500.0       0.0%",
        "        128          8      2,048      400.0      500.0       0.0%  best",
        "        128         16      2,048      400.0      500.0      25.0%  too many errors",
        "        128         32      2,048      400.0   31,000.0       0.0%  p95 is over the bound",
        "      1,256          8          0          -          -       0.0%  refused: HTTP 413: too large",
    ]
    assert lines[-4:] == [
        "1,234 requests, 12.3 s",
        "best:     128 rows in a chunk, 8 in flight: 2,048 rows/s, p95 500.0 ms",
        "use it:   fanout run job.toml --set chunks.rows=128 --set limits.concurrency=8",
        "          or let fanout tune --write put it into the job file",
    ]
    assert "*" in "".join(lines[7:-4])


def test_the_plot_is_plain_and_narrow():
    text = report_text(FOUND, "job.toml")
    assert text.isascii()
    assert max(map(len, text.splitlines())) <= 100


def test_written_values_replace_the_advice_to_write_them():
    text = report_text(replace(FOUND, written="job.toml"), "job.toml")
    assert text.endswith("written:  job.toml: chunks.rows = 128, limits.concurrency = 8")


def test_caveats_of_the_best_trial_are_printed():
    report = replace(
        FOUND, failed=3, still_growing=True, finished=False, unfinished_reason="its requests or rows are spent"
    )
    text = report_text(report, "job.toml")
    assert "rows of the input failed in it" in text
    assert "more in flight may be faster still" in text
    assert "the search is not finished: its requests or rows are spent" in text


def test_a_search_without_a_valid_trial_prints_the_bounds():
    text = report_text(replace(FOUND, best=None, settings={}, max_p95=0.05), "job.toml")
    assert text.endswith("best:     none keeps the bounds: p95 50.0 ms, errors 1.0%")


def test_without_a_trial_there_is_neither_table_nor_plot():
    text = report_text(
        replace(FOUND, trials=(), best=None, settings={}, requests=2, unfinished_reason="over"), "job.toml"
    )
    assert text == "2 requests, 12.3 s"


def test_a_mocked_search_is_marked_and_gives_no_advice():
    text = report_text(replace(FOUND, answers="mock"), "job.toml")
    assert text.startswith("MOCK:     these answers are made up")
    assert "use it" not in text


def test_the_plan_shows_the_maximum_that_is_sent():
    assert plan_text(PLAN).splitlines() == [
        "tuning http://host/, codec json",
        "sends at most 2,000 requests and 500,000 rows, for at most 60 s",
        "tries 1 to 1,797 rows in a chunk, 1 to 2 in flight",
        "the same 1,797 rows go again and again: a server that keeps its answers looks faster than it is",
    ]
    automatic = plan_text(replace(PLAN, automatic=True, concurrency=(16,), answers="mock"))
    assert "rehearses, without sending them, at most 2,000 requests" in automatic
    assert "16 in flight (the job leaves that to the client: the size of a chunk alone is tuned)" in automatic


def test_a_trial_is_printed_on_one_line():
    assert trial_text(SLOW) == "128 rows in a chunk, 1 in flight: 256 rows/s, p95 500.0 ms"
    assert trial_text(BEST).endswith("p95 500.0 ms, both trials together")
    assert trial_text(REFUSED).endswith("p95 - ms; refused: HTTP 413: too large")


def test_series_stand_over_their_steps_at_their_heights_and_the_best_is_a_star():
    series = {"64": {1: 100.0, 2: 200.0, 4: 400.0}, "128": {4: 1000.0, 16: 500.0}}
    assert list(plot(series, best=("128", 4), below="in flight")) == [
        "1,000 |              *",
        "      |",
        "      |",
        "      |",
        "      |",
        "  500 |                   b",
        "      |              a",
        "      |",
        "      |         a",
        "      |    a",
        "    0 |",
        "           1    2    4   16  in flight",
        "       a 64  b 128",
    ]


def test_two_at_one_place_stand_there_together():
    lines = list(plot({"64": {1: 10.0}, "128": {1: 10.1}, "256": {1: 0.0}}, best=None, below="x"))
    assert lines[0].endswith("|  ab")
    assert lines[10].endswith("|   c")


def test_nothing_but_zeros_can_be_plotted():
    assert list(plot({"64": {1: 0.0}}, best=None, below="x"))[10].endswith("|   a")


def test_small_numbers_keep_decimals():
    lines = list(plot({"1": {1: 0.5}}, best=None, below="x"))
    assert [line.split("|")[0].strip() for line in lines if line[0] != " "] == ["0.50", "0.25"]
