"""A plot of characters."""

from __future__ import annotations

from fanout.cli.plot import plot


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
