"""A job of prompts: texts out as JSON lines, the bill in the summary."""

from __future__ import annotations

import json

import numpy as np

JOB = """
[input]
path = "x.npy"

[endpoint]
url = "local://echo"

[codec]
name = "openai-chat"
model = "echo"
extra = { max_tokens = 2 }

[output]
path = "out/y.jsonl"
"""
PROMPTS = np.array(["one", "two words", "three words é"] * 200)


def test_prompts_become_texts_and_their_usage_is_printed(command, write_job, tmp_path):
    write_job(JOB, PROMPTS[:3])
    result = command("run", "job.toml")
    assert (result.code, result.err) == (0, "")
    assert "usage:    6 prompt_tokens, 5 completion_tokens, 11 total_tokens\n" in result.out
    lines = [json.loads(line) for line in (tmp_path / "out" / "y.jsonl").read_text().splitlines()]
    assert lines == [
        {"text": "one", "finish_reason": "stop", "error": None},
        {"text": "two words", "finish_reason": "stop", "error": None},
        {"text": "three words", "finish_reason": "length", "error": None},
    ]


def test_the_cost_is_in_the_json_too_and_large_numbers_are_readable(command, write_job):
    write_job(JOB, PROMPTS)
    summary = json.loads(command("run", "job.toml", "--json").out)
    assert summary["usage"] == {"prompt_tokens": 1200, "completion_tokens": 1000, "total_tokens": 2200}
    assert "usage:    1,200 prompt_tokens, 1,000 comp" in command("run", "job.toml", "--fresh").out


def test_texts_do_not_go_into_npy(command, write_job, tmp_path):
    write_job(JOB, PROMPTS[:3])
    result = command("run", "job.toml", "--set", "output.path=y.npy")
    assert result.code == 2
    assert ".jsonl" in result.err
    assert not list(tmp_path.glob("y*"))


def test_an_option_that_makes_no_sense_is_refused_by_its_key(command, write_job):
    write_job(JOB, PROMPTS[:3])
    result = command("run", "job.toml", "--set", "codec.extra={stream = true}")
    assert result.code == 2
    assert "codec.extra: cannot have stream = true" in result.err
