"""Only commands that send rows, or rehearse it, import code and run commands that a job file names."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import click
import pytest

from fanout.cli import cli
from tests.jobs import JOB

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CODE = """
with open("traces", "a") as file:
    file.write("imported ")

import numpy as np
import orjson

import fanout

class Double(fanout.Codec):
    def encode(self, rows):
        return fanout.Payload(body=orjson.dumps({"instances": rows.tolist()}))

    def decode(self, response, n_rows):
        return np.array(response.json()["predictions"])

def check(answer):
    pass
"""
OWN_CODEC = 'name = "my_codecs.py:Double"'
OWN_FUNCTION = 'name = "openai-chat"\nmodel = "m"\nvalidate = "my_codecs.py:check"\nschema = { type = "object" }'

WITH_CODE = {
    "run": ["job.toml", "--fresh"],
    "check": ["job.toml"],
    "tune": ["job.toml", "--chunk-rows", "2", "--concurrency", "1", "--seconds", "0.01", "--max-requests", "20"],
}
WITHOUT_CODE = {
    "status": ["job.toml"],
    "report": ["job.toml"],
    "failures": ["job.toml"],
    "schema": [],
    "cache stats": ["job.toml"],
    "cache prune": ["job.toml", "--all"],
    "presets": [],
    "presets show": ["cohere-embed"],
    "init": ["new.toml", "--input", "x.npy", "--url", "http://127.0.0.1:9/x", "--codec", "my_codecs.py:Double"],
}
WITHOUT_JOB = {"serve", "compare", "show"}


@pytest.fixture
def prepare(tmp_path: Path, write_job, doubler_aside, monkeypatch):
    """Write a job with code and a command of its own, which leave traces in a file."""
    monkeypatch.setattr(sys, "path", list(sys.path))

    def prepare(codec: str) -> Path:
        (tmp_path / "my_codecs.py").write_text(CODE)
        (tmp_path / "token.py").write_text("open('traces', 'a').write('command '); print('t0ken')")
        own = f'[auth]\ntype = "command"\ncommand = [{json.dumps(sys.executable)}, "token.py"]\n'
        own += '[cache]\npath = "answers.sqlite"\n'
        write_job(JOB.replace('name = "json"', codec) + own, url=doubler_aside.url)
        return tmp_path / "traces"

    return prepare


def names(group: click.Group, above: str = "") -> Iterator[str]:
    for name, one in group.commands.items():
        if not isinstance(one, click.Group) or one.invoke_without_command:
            yield f"{above}{name}"
        if isinstance(one, click.Group):
            yield from names(one, f"{above}{name} ")


def test_each_command_belongs_to_one_of_the_lists():
    assert sorted(names(cli)) == sorted([*WITH_CODE, *WITHOUT_CODE, *WITHOUT_JOB])


@pytest.mark.parametrize("name", WITH_CODE)
def test_a_command_that_sends_uses_the_code_and_the_command_of_the_job(command, prepare, name):
    traces = prepare(OWN_CODEC)
    assert command(name, *WITH_CODE[name]).code == 0
    assert set(traces.read_text().split()) == {"imported", "command"}


def test_no_other_command_does(command, prepare):
    traces = prepare(OWN_CODEC)
    assert command("run", "job.toml").code == 0
    traces.unlink()
    for name, arguments in WITHOUT_CODE.items():
        ended = command(*name.split(), *arguments)
        assert (name, ended.code, traces.exists()) == (name, 0, False), ended


def test_a_function_in_an_option_of_a_codec_is_not_imported_either(command, prepare):
    traces = prepare(OWN_FUNCTION)
    assert command("check", "job.toml", "--dry-run").code == 2, "the rows are no texts"
    assert traces.read_text() == "imported "
    traces.unlink()
    for name, arguments in WITHOUT_CODE.items():
        command(*name.split(), *arguments)
        assert (name, traces.exists()) == (name, False)


def test_init_leaves_a_codec_of_the_user_s_own_to_check(command, prepare, tmp_path):
    prepare(OWN_CODEC)
    ended = command("init", *WITHOUT_CODE["init"])
    assert "not probed: new.toml: codec.name: the job's codec is code, which this command does not run" in ended.err
    assert 'name = "my_codecs.py:Double"' in (tmp_path / "new.toml").read_text()
