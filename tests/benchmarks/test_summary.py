"""Tests of medians, spread and ratios of the rounds, and of the report and the pictures."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest

from benchmarks.bounds import judged
from benchmarks.chart import Bar, Panel, drawn
from benchmarks.charts import pictures
from benchmarks.groups import FANOUT, FLOOR, Group, groups
from benchmarks.measuring import Cost
from benchmarks.report import Circumstances, as_json, as_markdown, duration
from benchmarks.rounds import Measured
from benchmarks.summary import Spread, lines, ratio_between

SVG = "{http://www.w3.org/2000/svg}"
HERE = Circumstances(date="today", machine={"cores": "2"}, packages={"numpy": "2"}, server="s", pinned=True, rounds=3)


def costs(*cpu: float, units: int = 1000) -> list[Cost]:
    return [Cost(units=units, cpu=each, wall=2 * each, peak=50 << 20, beyond=1 << 20) for each in cpu]


def w1(**measured: list[Cost]) -> Measured:
    names = {"floor": FLOOR, "plain": FANOUT}
    group = next(group for group in groups() if group.name == "W1")
    return Measured(group, {names[name]: rounds for name, rounds in measured.items()})


def test_a_ratio_is_taken_within_each_round():
    slow_machine_in_round_two = w1(floor=costs(0.1, 0.4, 0.1), plain=costs(0.2, 0.8, 0.3))
    by_name = {line.name: line for line in lines(slow_machine_in_round_two)}
    assert by_name[FANOUT].ratio["cpu"] == Spread(2.0, 2.0, pytest.approx(3.0))
    assert by_name[FANOUT].absolute["cpu"] == Spread(0.3 / 1000, 0.2 / 1000, 0.8 / 1000)
    assert by_name[FLOOR].ratio["cpu"] == Spread(1, 1, 1)
    assert by_name[FANOUT].absolute["throughput"].median == pytest.approx(1000 / 0.6)


def test_a_cost_is_divided_by_units_and_not_by_requests():
    measured = w1(floor=costs(0.1, units=1000), plain=costs(0.1, units=500))
    assert ratio_between(measured, FANOUT, FLOOR) == Spread(2, 2, 2)


def test_without_the_base_there_are_figures_and_no_ratios():
    (line,) = lines(w1(plain=costs(0.2)))
    assert line.ratio == {}
    assert line.absolute["cpu"].median == 0.2 / 1000


def test_memory_that_was_not_measured_is_not_reported():
    unknown = [Cost(units=1, cpu=0.1, wall=0.1, peak=None, beyond=None)]
    (line,) = lines(w1(floor=unknown))
    assert line.absolute.keys() == line.ratio.keys() == {"cpu", "throughput"}
    assert f"| {FLOOR} | 100 ms (100 ms to 100 ms) |" in as_markdown(HERE, [w1(floor=unknown)])


def test_a_bound_is_judged_by_the_median():
    ((bound, by_name),) = judged([w1(floor=costs(1, 1, 1), plain=costs(0.9, 0.94, 2))])
    assert (bound.most, by_name.median) == (0.95, 0.94)
    held = as_markdown(HERE, [w1(floor=costs(1, 1, 1), plain=costs(0.9, 0.94, 2))])
    missed = as_markdown(HERE, [w1(floor=costs(1, 1, 1), plain=costs(0.9, 0.96, 2))])
    assert "| 0.95 | 0.94 (0.90 to 2.00) | yes |" in held
    assert "| 0.95 | 0.96 (0.90 to 2.00) | **no** |" in missed


def test_both_reports_name_skipped_and_failed_entries():
    measured = w1(floor=costs(1))
    measured.skipped["httpx"] = "it is not installed"
    measured.failed["openai"] = "wrong answers"
    text, (group,) = as_markdown(HERE, [measured]), as_json(HERE, [measured])["groups"]
    assert "- httpx: not run, it is not installed." in text
    assert "- openai: FAILED, wrong answers." in text
    assert (group["skipped"], group["failed"]) == (measured.skipped, measured.failed)


@pytest.mark.parametrize(
    ("seconds", "shown"), [(98e-6, "98 us"), (1.234e-3, "1.23 ms"), (12.34e-3, "12.3 ms"), (0.1234, "123 ms")]
)
def test_a_duration_has_three_digits_and_a_unit(seconds, shown):
    assert duration(seconds) == shown


def test_bars_are_as_long_as_their_values_and_cut_where_the_panel_ends():
    bars = [Bar(label="<a> & b", value=value, low=value, high=value, figure=f"{value}") for value in (1.0, 2.0, 9.0)]
    root = ET.fromstring(drawn([Panel(title="t", note="n", bars=bars, most=4.0, mark=1.0)], "about"))
    one, two, nine = (float(rect.get("width", "0")) for rect in root.iter(f"{SVG}rect"))
    assert two == pytest.approx(2 * one, abs=0.2)
    assert nine == pytest.approx(4 * one, abs=0.3)
    assert len(list(root.iter(f"{SVG}path"))) == 1
    assert "<a> & b" in {text.text for text in root.iter(f"{SVG}text")}


def test_pictures_show_measured_entries_only():
    assert pictures([w1()]) == {}
    drawn = pictures([w1(floor=costs(1), plain=costs(2))])
    assert drawn.keys() == {"cpu.svg", "memory.svg"}
    classes = [rect.get("class") for rect in ET.fromstring(drawn["cpu.svg"]).iter(f"{SVG}rect")]
    assert classes == ["bar", "ours"]


def test_the_base_of_a_group_is_its_first_entry():
    assert all(isinstance(group, Group) and group.base == group.entries[0].name for group in groups())
