"""``fanout compare``: its text, its JSON and its exit codes."""

from __future__ import annotations

import json

import numpy as np


def test_the_exit_code_says_whether_the_outputs_agree(command, tmp_path):
    values = np.arange(40.0).reshape(20, 2)
    np.save(tmp_path / "a.npy", values)
    np.save(tmp_path / "b.npy", values * (1 + 1e-7))
    result = command("compare", "a.npy", "b.npy")
    assert (result.code, result.err) == (0, "")
    assert "20 rows matched by position: 20 agree, 0 differ (100.00%)" in result.out
    assert result.out.endswith("the outputs agree within rtol 1e-05 and atol 1e-08\n")
    values[[3, 7]] += [5, 0]
    np.save(tmp_path / "b.npy", values[:-1])
    result = command("compare", "a.npy", "b.npy", "--show", 1)
    assert result.code == 1
    assert "only in a.npy: 1 rows: 19" in result.out
    assert "column value: 2 of 19 rows differ; largest difference 5 in row 3" in result.out
    assert "2 of 19 labels changed (10.53%): 1 -> 0: 2" in result.out
    assert "row 3: value: [6.0, 7.0] | [11.0, 7.0]\nand 1 rows more that differ\n" in result.out


def test_the_json_has_the_counts_and_the_first_rows(command, tmp_path):
    (tmp_path / "a.csv").write_text("id,label,error\nx,pos,\ny,,HTTP 500\n")
    (tmp_path / "b.csv").write_text("id,label,error\ny,neg,\nx,neg,\n")
    result = command("compare", "a.csv", "b.csv", "--json")
    document = json.loads(result.out)
    assert (result.code, document["exit_code"], document["agree"], document["by"]) == (1, 1, False, "id")
    assert (document["differing"], document["answered_only_b"]) == (2, 1)
    assert document["first_differing"] == [
        {"row": "x", "answered": "both", "values": {"label": ["pos", "neg"]}},
        {"row": "y", "answered": "b", "values": {}},
    ]
    assert document["columns"][0]["changes"] == [{"from": "pos", "to": "neg", "rows": 1}]


def test_outputs_that_cannot_be_compared_are_one_line_and_code_2(command, tmp_path):
    (tmp_path / "a.csv").write_text("id,label,error\nx,pos,\n")
    (tmp_path / "b.csv").write_text("id,label,error\nx,pos\n")
    result = command("compare", "a.csv", "b.csv")
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    assert "b.csv, line 2: 2 values, but the header names 3" in result.err
    assert command("compare", "a.csv", "absent.parquet").code == 2
    assert "no column is named" in command("compare", "a.csv", "a.csv", "--columns", "").err
    assert "Invalid value for '--rtol'" in command("compare", "a.csv", "a.csv", "--rtol", "-1").err
