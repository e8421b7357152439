"""``fanout check``: its report, its exit codes, and the files that it leaves untouched."""

from __future__ import annotations

import json

import numpy as np
import pytest


def test_a_check_prints_its_report_and_writes_nothing(command, write_job, doubler_aside, tmp_path):
    write_job(url=f"{doubler_aside.url}?key=s3cret")
    result = command("check", "job.toml")
    assert (result.code, result.err) == (0, "")
    assert "input:    10 rows float64 (10,)" in result.out
    assert "key=***, codec json" in result.out
    assert "chunks:   3 of up to 4 rows, a request each\nsends:    31 bytes in the first request\n" in result.out
    assert "probe:    4 of 4 rows answered, 1 requests, median latency" in result.out
    assert "answer:   float64 (4,)" in result.out
    assert not (tmp_path / "out").exists()


def test_texts_in_a_csv_file_are_named_as_in_job_files_and_counted_approximately(
    command, write_job, doubler_aside, tmp_path
):
    doubler_aside.answer, doubler_aside.lowest = lambda rows: [len(row) for row in rows], ""
    (tmp_path / "x.csv").write_text("text\n" + "a text\n" * 50)
    write_job(url=doubler_aside.url)
    changes = ("--set", "input.path=x.csv", "--set", "input.column=text")
    result = command("check", "job.toml", *changes)
    assert result.code == 0, result.err
    assert "input:    about 50 rows str (4,)\n" in result.out
    assert json.loads(command("check", "job.toml", "--json", *changes).out)["estimated_rows"] == 50


def test_a_check_in_json_has_the_reason_of_its_stop(command, write_job, doubler_aside):
    doubler_aside.status = 401
    write_job(url=doubler_aside.url)
    result = command("check", "job.toml", "--json")
    report = json.loads(result.out)
    assert (result.code, report["exit_code"], report["stop_kind"], report["answer"]) == (3, 3, "refused", [])
    assert result.err.startswith("error: stopped early (refused): HTTP 401")


OIP = """
[input]
path = "x.npy"

[endpoint]
url = "local://digits"

[codec]
name = "oip"

[output]
path = "out/y.npy"
"""


def test_a_check_describes_the_model_and_the_first_request(command, write_job):
    write_job(OIP, np.zeros((100, 64)))
    result = command("check", "job.toml")
    assert (result.code, result.err) == (0, "")
    assert (
        "model:    digits, fanout, version 1\n"
        "  takes:  images FP32 [-1, 64]\n"
        "  gives:  probabilities FP32 [-1, 10]\n"
        "chunks:   2 of up to 64 rows, a request each\n"
        "sends:    float64 as images FP32 [64, 64]; 16,5"
    ) in result.out


@pytest.mark.parametrize("name", ["check", "run"])
def test_rows_of_another_form_are_one_line_and_ends_with_code_2(command, write_job, name, tmp_path):
    write_job(OIP, np.zeros((100, 63)))
    result = command(name, "job.toml", "--json")
    message = (
        "job.toml: input (x.npy): input 'images' of the model wants FP32 rows of shape [64], but was given float64 "
        "numbers, rows of shape [63]: give it rows of that shape"
    )
    assert (result.code, result.err) == (2, f"error: {message}\n")
    assert json.loads(result.out)["error"] == message
    assert not list(tmp_path.glob("out/*"))
