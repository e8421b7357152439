"""Every mistake that can be foreseen is one clear line on stderr, with code 2 and no traceback."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner

from fanout.cli import cli


@pytest.fixture
def fanout(tmp_path, monkeypatch):
    """Runs a command in this process, in the temporary folder."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str):
        return CliRunner().invoke(cli, arguments, catch_exceptions=False)

    return run


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
    "an unknown output": (["output.path=y.csv"], "output.path: y.csv has no suffix"),
    "an output that is a folder": (["output.path=folder.npy"], "output.path: folder.npy is a folder"),
    "a local server that does not exist": (["endpoint.url=local://digts"], "endpoint.url: "),
}


@pytest.mark.parametrize("command", ["run", "check"])
@pytest.mark.parametrize(("settings", "text"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_line(fanout, write_job, tmp_path, command, settings, text):
    write_job()
    np.save(tmp_path / "objects.npy", np.array([None], object))
    np.savez(tmp_path / "x.npz", images=np.zeros(3), labels=np.zeros(3))
    (tmp_path / "folder.npy").mkdir()
    result = fanout(command, "job.toml", *(part for setting in settings for part in ("--set", setting)))
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("error: ")
    assert text in result.stderr


def test_several_mistakes_are_a_line_each(fanout, write_job):
    write_job("[input]\npath = 1\n[limit]\n")
    lines = fanout("run", "job.toml").stderr.splitlines()
    assert len(lines) > 3
    assert all(line.startswith("error: job.toml: ") for line in lines)


def test_a_mistake_is_told_in_json_too(fanout, write_job):
    write_job()
    result = fanout("run", "job.toml", "--json", "--set", "limits.concurrency=0")
    told = json.loads(result.stdout)
    assert (told["schema_version"], told["exit_code"]) == (1, 2)
    assert told["error"] == "--set limits.concurrency: must be at least 1, not 0"
    assert result.stderr == f"error: {told['error']}\n"


def test_an_empty_input_is_no_mistake(fanout, write_job, tmp_path):
    write_job(rows=np.zeros((0, 4)))
    result = fanout("run", "job.toml")
    assert (result.exit_code, result.stderr) == (0, "")
    assert "no rows" in result.stdout
    assert np.load(tmp_path / "out" / "y.npy").shape == (0,)


@pytest.mark.parametrize("text", ["1", "a:b", "1:2:3", ""])
def test_rows_that_are_no_range_are_refused_with_an_example(fanout, write_job, text):
    write_job()
    result = fanout("run", "job.toml", "--rows", text)
    assert result.exit_code == 2
    assert "for instance 0:100" in result.stderr
