"""Every mistake that can be foreseen is one clear line on stderr, with code 2 and no traceback."""

from __future__ import annotations

import json

import numpy as np
import pytest

MISTAKES = {
    "a misspelt key": (["limits.concurency=8"], 'limits.concurency: unknown key; did you mean "concurrency"?'),
    "a wrong type": (
        ['limits.concurrency="many"'],
        'limits.concurrency: must be a whole number or "auto", not a string',
    ),
    "a bad range": (["limits.concurrency=0"], "limits.concurrency: must be at least 1, not 0"),
    "a missing file": (["input.path=z.npy"], "input.path: there is no file"),
    "an unset variable": (["endpoint.url=${ML_URL_OF_NO_ONE}"], "the environment variable ML_URL_OF_NO_ONE is not set"),
    "a URL without scheme": (["endpoint.url=host:8000/x"], "endpoint.url: 'host:8000/x' has no http:// or https://"),
    "an unknown codec": (["codec.name=jsno"], "codec.name: "),
    "an unknown codec option": (["codec.request_feild=x"], "codec.request_feild: "),
    "an array of objects": (["input.path=objects.npy"], "input.path: objects.npy holds an array of objects"),
    "an unknown column": (["input.path=x.npz", "input.column=imags"], 'did you mean "images"?'),
    "an unknown output": (["output.path=y.xls"], "output.path: y.xls: an output cannot be a .xls file"),
    "an output that is a folder": (["output.path=folder.npy"], "output.path: folder.npy is a folder"),
    "a local server that does not exist": (["endpoint.url=local://digts"], "endpoint.url: "),
}


@pytest.mark.parametrize("name", ["run", "check"])
@pytest.mark.parametrize(("settings", "text"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_line(command, write_job, tmp_path, name, settings, text):
    write_job()
    np.save(tmp_path / "objects.npy", np.array([None], object))
    np.savez(tmp_path / "x.npz", images=np.zeros(3), labels=np.zeros(3))
    (tmp_path / "folder.npy").mkdir()
    result = command(name, "job.toml", *(part for setting in settings for part in ("--set", setting)))
    assert result.code == 2
    assert result.out == ""
    assert result.err.count("\n") == 1
    assert result.err.startswith("error: ")
    assert text in result.err


def test_several_mistakes_are_a_line_each(command, write_job):
    write_job("[input]\npath = 1\n[limit]\n")
    lines = command("run", "job.toml").err.splitlines()
    assert len(lines) > 3
    assert all(line.startswith("error: job.toml: ") for line in lines)


def test_a_mistake_is_reported_in_json_too(command, write_job):
    write_job()
    result = command("run", "job.toml", "--json", "--set", "limits.concurrency=0")
    report = json.loads(result.out)
    assert (report["schema_version"], report["exit_code"]) == (1, 2)
    assert report["error"] == "--set limits.concurrency: must be at least 1, not 0"
    assert result.err == f"error: {report['error']}\n"


def test_an_empty_input_is_no_mistake(command, write_job, tmp_path):
    write_job(rows=np.zeros((0, 4)))
    result = command("run", "job.toml")
    assert (result.code, result.err) == (0, "")
    assert "no rows" in result.out
    assert np.load(tmp_path / "out" / "y.npy").shape == (0,)


@pytest.mark.parametrize("text", ["1", "a:b", "1:2:3", ""])
def test_rows_that_are_no_range_are_refused_with_an_example(command, write_job, text):
    write_job()
    result = command("run", "job.toml", "--rows", text)
    assert result.code == 2
    assert "for instance 0:100" in result.err


@pytest.mark.parametrize("text", ["3:", "2:1"])
def test_a_range_without_rows_of_a_file_of_unknown_length_is_refused(command, write_job, tmp_path, text):
    write_job()
    (tmp_path / "x.csv").write_text("x\n1\n2\n3\n")
    result = command("run", "job.toml", "--rows", text, "--set", "input.path=x.csv")
    assert (result.code, result.out) == (2, "")
    assert "--rows selects none of the rows of x.csv" in result.err
    assert not (tmp_path / "out").exists()


def test_a_run_of_some_rows_does_not_replace_the_answers_to_all(command, write_job, doubler_aside, tmp_path):
    write_job(url=doubler_aside.url)
    assert command("run", "job.toml", "--quiet").code == 0
    result = command("run", "job.toml", "--rows", "0:5")
    assert (result.code, result.out) == (2, "")
    assert "give these rows an output of their own, such as --set output.path=pilot.npy" in result.err
    assert np.load(tmp_path / "out" / "y.npy").shape == (10,)
    assert command("run", "job.toml", "--rows", "0:5", "--set", "output.path=out/pilot.npy").code == 0
    assert command("run", "job.toml", "--rows", "0:8", "--set", "output.path=out/pilot.npy").code == 0
    assert command("run", "job.toml", "--rows", "0:5", "--fresh").code == 0
    assert np.load(tmp_path / "out" / "y.npy").shape == (5,)


@pytest.mark.parametrize("name", ["run", "check", "status", "report"])
def test_a_folder_that_is_gone_is_named(command, tmp_path, monkeypatch, name):
    folder = tmp_path / "gone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    result = command(name, "job.toml")
    monkeypatch.chdir(tmp_path)
    assert (result.code, result.err) == (
        2, "error: the folder that this command was started in is gone: change to another one\n"
    )  # fmt: skip
