"""``fanout show``: the exchanges of a recording that hold a row."""

from __future__ import annotations

import json

import numpy as np
import pytest

SECRET = "key-7f21aa"


@pytest.fixture
def recording(command, write_job, doubler_aside, tmp_path):
    """A recording of 40 rows in chunks of 4, of which row 17 fails, and the command that shows its rows."""
    rows = np.arange(40.0)
    rows[17] *= -1
    job = write_job(rows=rows, url=f"{doubler_aside.url}?key={SECRET}")
    job.write_text(job.read_text() + f'\n[auth]\ntoken = "{SECRET}"\n')
    assert command("run", "job.toml", "--record", "monday.cassette").code == 1
    return lambda *options: command("show", "monday.cassette", *options)


def test_a_row_is_shown_with_its_own_values_in_every_exchange(recording):
    result = recording("--row", 17)
    assert (result.code, result.err) == (0, "")
    assert "; row 17 is number 2 of 4\n" in result.out
    assert "rows 16:20" in result.out
    # The bisection ends with the row alone.
    assert "rows 17\n" in result.out
    assert '{"instances": ["... 1 more", -17.0, "... 2 more"]}' in result.out
    assert "response: HTTP 422 after" in result.out
    assert "a row is below 0" in result.out
    assert SECRET not in result.out
    assert "rows 16\n" not in result.out


def test_the_json_has_all_exchanges_of_the_row(recording):
    document = json.loads(recording("--row", 38, "--json").out)
    (exchange,) = document["exchanges"]
    assert (exchange["rows"], exchange["place"], exchange["status"]) == ([[36, 40]], 2, 200)
    assert exchange["answer"] == {"predictions": ["... 2 more", 76.0, "... 1 more"]}
    assert SECRET not in json.dumps(document)


def test_a_row_that_is_not_there_and_a_file_that_is_no_recording_are_one_line(recording, command, tmp_path):
    result = recording("--row", 40)
    assert (result.code, result.out) == (2, "")
    assert "row 40 is in no exchange of monday.cassette, which holds the rows 0:40" in result.err
    (tmp_path / "x.txt").write_text("x")
    assert "is no cassette" in command("show", "x.txt", "--row", "1").err
    assert "Missing option '--row'" in command("show", "monday.cassette").err
