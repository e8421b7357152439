"""Tests from the command line to the files of the report."""

from __future__ import annotations

import json
from contextlib import ExitStack
from xml.etree import ElementTree as ET

import pytest

from benchmarks.command import main
from benchmarks.groups import FANOUT, FLOOR, Entry, Group
from benchmarks.machine import Cores
from benchmarks.rounds import Servers, measure


@pytest.mark.slow
def test_one_command_measures_and_writes_table_figures_and_pictures(tmp_path, capsys):
    chosen = ["--only", "W1,startup", "--entries", "fanout"]
    assert main([*chosen, "--quick", "--rounds", "1", "--server", "own", "--out", str(tmp_path)]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {
        "latest.md", "latest.json", "cpu.svg", "memory.svg", "studies.svg",
    }  # fmt: skip
    table, figures = (tmp_path / "latest.md").read_text(), json.loads((tmp_path / "latest.json").read_text())
    assert capsys.readouterr().out.strip() == table.strip()
    w1, startup = figures["groups"]
    measured = {entry["name"]: entry for entry in w1["entries"]}
    assert measured.keys() >= {FLOOR, FANOUT}
    assert all(cost["units"] == 600 and cost["cpu"] > 0 for entry in measured.values() for cost in entry["costs"])
    assert [entry["name"] for entry in startup["entries"]] == ["python -c pass", "fanout --version", "fanout --help"]
    assert f"| {FANOUT} |" in table
    ET.parse(tmp_path / "cpu.svg")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "W1,W9"], "there is no group W9; there are W1, W2"),
        (
            ["--only", "W4", "--entries", "triton,tirton"],
            "no line begins with tirton; there are aiohttp + orjson, bare",
        ),
        (["--rounds", "0"], "must be a whole number, 1 or more, not '0'"),
        (["--rounds", "many"], "must be a whole number, 1 or more, not 'many'"),
    ],
)
def test_wrong_arguments_are_errors(arguments, message, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_a_server_that_does_not_start_is_an_error_with_its_message(monkeypatch, tmp_path, capsys):
    broken = tmp_path / "nginx"
    broken.write_text('#!/bin/sh\nshift 5\necho "no such directive" > "$1"\nexit 1\n')
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert main(["--only", "W1", "--rounds", "1", "--server", "nginx", "--out", str(tmp_path / "out")]) == 2
    assert "nginx does not start: no such directive; --server own does without" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_interrupted_run_writes_nothing_and_shows_no_traceback(monkeypatch, tmp_path, capsys):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("benchmarks.command.measure", interrupted)
    assert main(["--out", str(tmp_path / "out"), "--server", "own"]) == 130
    assert "nothing is written" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_help_teaches_by_examples_and_names_every_group(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    shown = capsys.readouterr().out
    assert "python -m benchmarks --only W1,W4 --rounds 9" in shown
    assert "W2f (64 texts in" in shown


def group_of(*entries: Entry) -> Group:
    return Group(name="g", title="t", unit="request", entries=entries)


def test_missing_entries_are_skipped_and_failed_ones_reported_and_the_others_measured():
    absent = Entry(name="absent", target="nowhere:opened", workload="W1", needs=("no_such_peer",))
    broken = Entry(name="broken", target="benchmarks.nowhere:opened", workload="W1")
    sound = Entry(name="sound", command=("python", "-c", "pass"))
    lines: list[str] = []
    with ExitStack() as stack:
        servers = Servers(stack, nginx=False, core=None)
        (measured,) = measure([group_of(absent, broken, sound)], 2, servers, Cores(), lines.append)
    assert measured.skipped == {"absent": "no_such_peer not installed (pip install -e '.[bench]')"}
    assert measured.failed.keys() == {"broken"}
    assert "No module named 'benchmarks.nowhere'" in measured.failed["broken"]
    assert {name: len(costs) for name, costs in measured.costs.items()} == {"sound": 2}
    assert [line.split(":")[0] for line in lines] == ["g | absent", "g 1/2 | broken", "g 1/2 | sound", "g 2/2 | sound"]


def test_entries_take_turns():
    one, two = (Entry(name=name, command=("python", "-c", "pass")) for name in ("one", "two"))
    lines: list[str] = []
    with ExitStack() as stack:
        measure([group_of(one, two)], 2, Servers(stack, nginx=False, core=None), Cores(), lines.append)
    assert [line.split(":")[0] for line in lines] == ["g 1/2 | one", "g 1/2 | two", "g 2/2 | one", "g 2/2 | two"]
