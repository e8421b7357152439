"""Jobs for an API of one's own, described by templates and paths."""

from __future__ import annotations

import json

import pytest

JOB = """
[input]
path = "in.csv"
id = "id"

[endpoint]
url = "http://127.0.0.1:9/v1"

[codec]
name = "json"
path = "/m/{{lang}}/invoke"
request = { prompt = "Say {{text}}", n = "{{n}}" }
outputs.reply = { path = "choices[0].text", type = "str" }
outputs.parts = { path = "choices[0].parts", type = "json" }
outputs.score = { path = "score", type = "float32", shape = [] }
usage.total_tokens = "usage.total"
fail_when = "blocked"

[[codec.status_rules]]
status = 400
path = "error.code"
equals = "filtered"
then = "fail"

[output]
path = "out.jsonl"
"""
ROWS = 'id,text,n,lang,unused\na,"one {{n}}",1,en,x\nb,"two ""q""",2,../x,y\nc,three,3,..,z\n'


@pytest.fixture
def job(tmp_path):
    (tmp_path / "job.toml").write_text(JOB)
    (tmp_path / "in.csv").write_text(ROWS)


def test_a_mock_answers_in_the_shape_of_the_paths_and_a_row_that_cannot_be_sent_fails_alone(command, job, tmp_path):
    ended = command("run", "job.toml", "--mock")
    assert ended.code == 1
    assert "has '..' for {{lang}}, which cannot be a part of a path" in ended.out + ended.err
    lines = [json.loads(line) for line in (tmp_path / "out.mock.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == ["a", "b", "c"]
    assert [line["error"] is None for line in lines] == [True, True, False]
    assert lines[2]["reply"] is None
    assert all(isinstance(json.loads(line["parts"]), str) for line in lines[:2])


def test_the_columns_that_the_template_names_are_read(command, job):
    ended = command("check", "job.toml", "--dry-run", "--json")
    assert ended.code in (0, 1)
    assert json.loads(ended.out)["rows"] == 3


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ('codec.request={ a = [{ b = "{{text" }] }', "codec.request.a[0].b: has a {{ at position 0 without }}"),
        ('codec.request={ a = "{{text | jsn}}" }', "unknown filter 'jsn' (did you mean 'json'?)"),
        ('codec.outputs={ y = "a[?" }', "codec.outputs.y"),
        ('codec.outputs={ y = { path = "a", typ = "str" } }', "codec.outputs.y.typ"),
        ('codec.status_rules=[{ status = 400, then = "stop" }]', "codec.status_rules[0].then"),
        ('codec.fail_when="["', "codec.fail_when"),
        ('codec.path="/constant"', "write a constant path into the URL"),
        ('codec.reqest="{{row}}"', "did you mean 'request'?"),
    ],
)
def test_a_mistake_is_one_line_with_its_key(command, job, setting, words):
    ended = command("run", "job.toml", "--set", setting)
    assert ended.code == 2
    assert words in ended.err
    assert len(ended.err.strip().splitlines()) == 1
