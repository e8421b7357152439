"""Typed answers in a job file: the file of the schema, and the function that validates."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from fanout.errors import ConfigError
from fanout.job import load_job
from fanout.job.load import load_job_or_outline
from fanout.job.model import Job
from fanout.job.run import run_job
from fanout.testing import in_virtual_time

if TYPE_CHECKING:
    from pathlib import Path

JOB = """
[input]
path = "rows.jsonl"
[endpoint]
url = "https://api.example/v1/chat/completions"
[codec]
name = "openai-chat"
prompt = "{{text}}"
schema = "schema.json"
validate = "checks.py:plausible"
[output]
path = "answers.parquet"
"""


@pytest.fixture
def job(tmp_path: Path) -> Path:
    (tmp_path / "job.toml").write_text(JOB)
    (tmp_path / "rows.jsonl").write_text('{"text": "a", "n": 1}\n{"text": "b", "n": 2}\n')
    schema = {"type": "object", "properties": {"label": {"enum": ["x", "y"]}, "n": {"type": "integer", "minimum": 3}}}
    (tmp_path / "schema.json").write_text(json.dumps(schema))
    (tmp_path / "checks.py").write_text("def plausible(answer):\n    if answer['n'] > 3: raise ValueError\n")
    return tmp_path / "job.toml"


def test_a_job_is_rehearsed_with_answers_of_its_schema(job: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")

    summary = in_virtual_time(run_job)(load_job(job), mock=True)
    assert (summary.ok, summary.exit_code) == (2, 0)
    table = pq.read_table(job.parent / "answers.mock.parquet")
    assert table.to_pydict() == {"label": ["x", "x"], "n": [3, 3], "error": [None, None]}


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ("codec.schema=nope.json", "codec.schema: cannot be read from .*nope.json"),
        ("codec.validate=checks.py:plausibl", "codec.validate: checks.py has no function .* did you mean 'plausible'"),
        ("codec.validate=check.py:f", "codec.validate: there is no file .*check.py; did you mean 'checks.py'"),
        ("codec.validate=checks", "codec.validate: 'checks' names no function; write \"my_codecs.py:function\""),
        ("codec.validate=no_such_module:f", "codec.validate: there is no module 'no_such_module'"),
        ("codec.mode=json", "codec.mode: must be one of json_schema"),
    ],
)
def test_a_wrong_option_is_named_with_its_place(job: Path, change: str, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        load_job(job, [change])


def test_a_command_that_runs_no_code_does_not_import_the_function(job: Path) -> None:
    (job.parent / "checks.py").write_text("raise SystemExit('imported')\n")
    assert not isinstance(load_job_or_outline(job), Job)
    with pytest.raises(ConfigError, match=r"codec.validate: checks.py, line 1: SystemExit: imported"):
        load_job(job)
