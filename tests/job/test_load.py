"""All problems of a job file are reported at once: a line each, with file, key and remedy, and no secret."""

from __future__ import annotations

import pytest

from fanout.errors import ConfigError
from fanout.job import load_job
from fanout.settings import Limits, RetryPolicy, Timeouts

MINIMAL = """
[input]
path = "x.npy"
[endpoint]
url = "http://host/predict"
[codec]
name = "json"
[output]
path = "y.npy"
"""


def problems(tmp_path, text, settings=(), environment=None):
    """The lines about a job file, without the file's name."""
    (tmp_path / "job.toml").write_text(text, "utf-8")
    with pytest.raises(ConfigError) as caught:
        load_job(tmp_path / "job.toml", settings, environment or {})
    return [line.removeprefix(f"{tmp_path / 'job.toml'}: ") for line in str(caught.value).splitlines()]


def load(tmp_path, text, settings=(), environment=None):
    (tmp_path / "job.toml").write_text(text, "utf-8")
    return load_job(tmp_path / "job.toml", settings, environment or {})


def test_a_minimal_job_has_the_library_s_defaults(tmp_path):
    job = load(tmp_path, MINIMAL)
    assert job.tables.limits == Limits()
    assert job.tables.retry == RetryPolicy()
    assert job.tables.timeouts == Timeouts()
    assert job.tables.chunks.rows == 64
    assert job.codec.name == "json"


def test_paths_are_relative_to_the_job_file(tmp_path):
    job = load(tmp_path, MINIMAL, ["output.path=~/y.npy"])
    assert job.input_path == tmp_path / "x.npy"
    assert job.output_path.is_absolute()
    assert "~" not in str(job.output_path)


def test_a_dash_is_stdin_and_no_file_beside_the_job(tmp_path):
    assert str(load(tmp_path, MINIMAL, ["input.path=-", "input.format=jsonl"]).input_path) == "-"


def test_an_unknown_format_lists_the_known(tmp_path):
    (line,) = problems(tmp_path, MINIMAL, ["input.format=xlsx"])
    assert "input.format: " in line
    assert '"parquet"' in line


def test_a_job_shows_neither_headers_nor_codec_options(tmp_path):
    job = load(
        tmp_path, MINIMAL, ['endpoint.headers={ A = "s3cret" }', 'codec.request={ key = "s3cret", rows = "{{rows}}" }']
    )
    assert "s3cret" not in repr(job)
    assert "s3cret" not in repr(job.tables)
    assert job.tables.codec.options == {"request": {"key": "s3cret", "rows": "{{rows}}"}}


def test_variables_are_filled_in(tmp_path):
    job = load(tmp_path, MINIMAL + 'x.y = "z"\n'.replace("x.y", "#"), ["endpoint.url=http://${HOST}/"], {"HOST": "h"})
    assert job.tables.endpoint.url == "http://h/"


def test_every_problem_is_reported_with_the_nearest_valid_name(tmp_path):
    text = MINIMAL + '[limits]\nconcurency = 8\n[retries]\nmax_attempts = 3\n[timeouts]\nattempt = "60"\nzzz = 1\n'
    assert sorted(problems(tmp_path, text)) == [  # their order is pydantic's, and another in some of its versions
        'limits.concurency: unknown key; did you mean "concurrency"?',
        'retries: unknown key; did you mean "retry"?',
        "timeouts.attempt: must be a number, not a string",
        "timeouts.zzz: unknown key; known here are connect, attempt, run",
    ]


def test_a_key_in_the_wrong_table_is_shown_its_place(tmp_path):
    text = MINIMAL + "[retry]\nconcurrency = 8\n"
    assert problems(tmp_path, text) == ['retry.concurrency: unknown key; did you mean "limits.concurrency"?']


@pytest.mark.parametrize(
    ("setting", "problem"),
    [
        ("limits.concurrency=true", 'limits.concurrency: must be a whole number or "auto", not true or false'),
        ("limits.concurrency=1.5", 'limits.concurrency: must be a whole number or "auto", not a number'),
        ("limits.concurrency=0", "limits.concurrency: must be at least 1, not 0"),
        ("limits.requests_per_second=[]", "limits.requests_per_second: must be a number, not a list"),
        ("limits=3", "limits: must be a table, not a whole number"),
        ("chunks=3", "chunks: must be a table, not a whole number"),
        ("chunks.rows=0", "chunks.rows: must be at least 1, not 0"),
        ("timeouts.run=inf", "timeouts.run: must be a finite number above 0, not inf"),
        ("input.path=1", "input.path: must be a string, not a whole number"),
        ("input.column=1", "input.column: must be a string, not a whole number"),
        ('input.column=["a"]', "input.column: must be a string, not a list"),
        ("input.columns=a", "input.columns: must be a list of strings, not a string"),
        ("input.id=1", "input.id: must be a string or a list of strings, not a whole number"),
        ("input.as=list", 'input.as: must be "vector", not "list"'),
        ("input.renam={ a = 'b' }", 'input.renam: unknown key; did you mean "rename"?'),
        ("input.asx=vector", 'input.asx: unknown key; did you mean "as"?'),
        ("endpoint.headers=1", "endpoint.headers: must be a table, not a whole number"),
        ("endpoint.headers={ A = 1 }", "endpoint.headers.A: must be a string, not a whole number"),
        ("endpoint.headers={ A = [] }", "endpoint.headers.A: must be a string, not a list"),
        ("codec=1", "codec: must be a table, not a whole number"),
        ("codec.name=1", "codec.name: must be a string, not a whole number"),
        ("codec.request_feild=x", "codec.request_feild: "),
        ("codec.name=jsn", "codec.name: "),
        ("endpoint.url=host:8000/x", "endpoint.url: 'host:8000/x' has no http:// or https:// in front"),
    ],
)
def test_a_wrong_value_is_reported_by_its_type_or_range(tmp_path, setting, problem):
    first = problems(tmp_path, MINIMAL, [setting])[0]
    assert first.startswith(f"--set {problem}")


def test_missing_keys_and_tables_are_named(tmp_path):
    assert problems(tmp_path, "[input]\n[codec]\n[endpoint]\n") == [
        "input.path: is missing",
        "endpoint.url: is missing: where requests are to go (or urls, for several endpoints)",
        "codec.name: is missing",
        "output: is missing",
    ]


def test_an_unset_variable_is_reported_once_with_its_key(tmp_path):
    text = MINIMAL.replace("http://host/predict", "${ML_URL}")
    assert problems(tmp_path, text) == ["endpoint.url: the environment variable ML_URL is not set"]


def test_a_value_from_the_environment_is_never_shown(tmp_path):
    text = MINIMAL.replace("http://host/predict", "${ML_URL}").replace('"json"', '"${CODEC}"')
    lines = problems(tmp_path, text, environment={"ML_URL": "s3cret-host", "CODEC": "s3cret-codec"})
    assert len(lines) == 2
    assert "s3cret" not in "".join(lines)


def test_a_header_value_is_never_shown(tmp_path):
    lines = problems(tmp_path, MINIMAL, ['endpoint.headers={ A = "s3cret" }', "endpoint.max_response_bytes=0"])
    assert lines == ["--set endpoint.max_response_bytes: must be at least 1, not 0"]


def test_a_syntax_error_is_reported_with_its_line(tmp_path):
    assert problems(tmp_path, "[input]\npath = \n") == ["line 2: not valid TOML: Invalid value"]
    assert problems(tmp_path, "[input")[0].startswith("last line: not valid TOML: ")


def test_a_file_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "job.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not a text file in UTF-8"):
        load_job(tmp_path / "job.toml")


def test_a_missing_job_file_gets_the_nearest_name(tmp_path):
    (tmp_path / "job.toml").touch()
    with pytest.raises(ConfigError, match=r'no job file .*jobb\.toml; did you mean ".*job\.toml"'):
        load_job(tmp_path / "jobb.toml")
    with pytest.raises(ConfigError, match=r"no job file .*x\.toml$"):
        load_job(tmp_path / "no" / "x.toml")


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load_job(tmp_path)


def test_certificate_files_are_found_from_the_job_files_folder(tmp_path):
    path = tmp_path / "job.toml"
    path.write_text(
        '[input]\npath = "x.npy"\n[endpoint]\nurl = "https://h/x"\nca_file = "ca.pem"\nclient_cert = "/etc/me.pem"\n'
        '[codec]\nname = "v1"\n[output]\npath = "y.npy"\n'
    )
    endpoint = load_job(path).endpoint
    assert endpoint.ca_file == str(tmp_path / "ca.pem")
    assert endpoint.client_cert == "/etc/me.pem"
    assert endpoint.client_key is None
