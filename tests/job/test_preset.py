"""Presets in job files: defaults of the tables, the URL, and messages for what is wrong."""

from __future__ import annotations

import pytest

from fanout import ConfigError
from fanout.job import Outline, load_job, load_job_or_outline

JOB = """
[input]
path = "x.npy"

[endpoint]
url = "https://r.example"

[codec]
preset = "azure-openai-embeddings"
deployment = "d"

[output]
path = "y.npy"
"""
PATH = "/openai/deployments/d/embeddings"
VERSION = "?api-version=2024-10-21"


@pytest.fixture
def load(tmp_path):
    """Load a job from a text."""

    def of(text: str = JOB, settings=(), environment=None):
        (tmp_path / "job.toml").write_text(text, "utf-8")
        return load_job(tmp_path / "job.toml", settings, environment or {})

    return of


def problems(load, text: str, settings=(), **environment: str) -> list[str]:
    """Return the lines of the error of a job, without its folder."""
    with pytest.raises(ConfigError) as error:
        load(text, settings, environment)
    return [line.rpartition("/job.toml: ")[2] for line in str(error.value).splitlines()]


def test_the_preset_gives_codec_and_path(load):
    job = load()
    assert job.codec.name == "openai-embeddings"
    assert job.tables.codec.preset == "azure-openai-embeddings"
    assert job.endpoint.url == f"https://r.example{PATH}{VERSION}"


@pytest.mark.parametrize(
    ("url", "whole"),
    [
        ("https://r.example", f"https://r.example{PATH}{VERSION}"),
        ("https://r.example/", f"https://r.example{PATH}{VERSION}"),
        ("https://r.example/openai/", f"https://r.example{PATH}{VERSION}"),
        ("https://r.example/gateway", f"https://r.example/gateway{PATH}{VERSION}"),
        ("https://r.example/gateway/openai/deployments", f"https://r.example/gateway{PATH}{VERSION}"),
        (f"https://r.example{PATH}", f"https://r.example{PATH}{VERSION}"),
        (f"https://r.example{PATH}/", f"https://r.example{PATH}/{VERSION}"),
        (f"https://r.example{PATH}?api-version=1&x=2", f"https://r.example{PATH}?api-version=1&x=2"),
        ("https://r.example?x=2", f"https://r.example{PATH}?x=2&api-version=2024-10-21"),
        ("local://digits", "local://digits"),
    ],
)
def test_the_path_is_appended_but_for_what_the_url_has_already(load, url, whole):
    assert load(JOB.replace("https://r.example", url)).endpoint.url == whole


def test_the_path_is_appended_to_every_url(load):
    text = JOB.replace('url = "https://r.example"', 'urls = ["https://a.example", "https://b.example/openai"]')
    assert [one.url for one, _ in load(text).endpoint.each()] == [
        f"https://a.example{PATH}{VERSION}",
        f"https://b.example{PATH}{VERSION}",
    ]


def test_every_key_can_be_overridden_also_from_the_command_line(load):
    text = JOB.replace('deployment = "d"', 'deployment = "d"\nencoding_format = "float"\ndimensions = 8')
    job = load(text, ["codec.dimensions=4", "codec.api_version=2025-01-01"])
    assert job.codec.options == {"model": "d", "dimensions": 4, "encoding_format": "float"}
    assert job.endpoint.url.endswith("?api-version=2025-01-01")


def test_a_request_without_a_name_or_a_preset_is_one_of_the_codec_json(load):
    text = JOB.replace('preset = "azure-openai-embeddings"\ndeployment = "d"', 'request = { text = "{{row}}" }')
    assert load(text).codec.name == "json"
    assert problems(load, text.replace("{{row}}", "no row")) != []
    (line,) = problems(load, text.replace('request = { text = "{{row}}" }', ""))
    assert line == "codec.name: is missing"


OWN = '[codec]\n[headers]\nX-A = "1"\n[chunks]\nrows = 3\nmax_bytes = 100\n[timeouts]\nattempt = 7\n'


def test_a_preset_of_one_s_own_is_found_beside_the_job_file(load, tmp_path):
    (tmp_path / "own.toml").write_text(OWN)
    text = JOB.replace("azure-openai-embeddings", "./own.toml").replace('deployment = "d"', "[chunks]\nrows = 4")
    job = load(text)
    assert job.codec.name == "json"
    assert (job.tables.chunks.rows, job.tables.chunks.max_bytes, job.tables.timeouts.attempt) == (4, 100, 7)
    assert job.endpoint.headers == {"X-A": "1"}


@pytest.mark.parametrize(
    ("auth", "headers"),
    [
        ("", None),
        ('token = "k"', {"api-key": "k"}),
        ('token = "k"\nheader = "x-key"', {"x-key": "k"}),
        ('type = "bearer"\ntoken = "k"', {"Authorization": "Bearer k"}),
    ],
)
def test_the_preset_gives_the_type_of_the_credentials_and_the_job_the_secret(load, auth, headers):
    job = load(JOB + (f"[auth]\n{auth}\n" if auth else ""))
    assert (job.auth and job.auth.headers) == headers


def test_header_fields_of_the_job_win_whatever_their_case(load, tmp_path):
    (tmp_path / "own.toml").write_text(OWN)
    text = JOB.replace("azure-openai-embeddings", "own.toml").replace('deployment = "d"', "")
    job = load(text.replace("[codec]", 'headers = { x-a = "2" }\n[codec]'))
    assert job.endpoint.headers == {"x-a": "2"}


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ('deployment = "d"', "", "codec.deployment: is missing: Name of the deployment, which is not the name of its"),
        ('"d"', "3", "codec.deployment: must be a string, not a whole number"),
        ('"d"', '"d"\ndimension = 3', "codec.dimension: preset 'azure-openai-embeddings' has no option 'dimension'"),
        ('"d"', '"d"\ndimensions = 0', "codec.dimensions: must be a whole number, 1 or more"),
        ("-embeddings", "-embedings", "codec.preset: there is no preset 'azure-openai-embedings'; did you mean"),
        ('"azure-openai-embeddings"', "3", "codec.preset: must be the name of a preset, or the path of a file"),
        ("azure-openai-embeddings", "./none.toml", "codec.preset: there is no preset "),
        ("https://r.example", "r.example", "endpoint.url: 'r.example' has no http:// or https:// in front"),
    ],
)
def test_a_problem_is_one_line_with_its_key(load, old, new, expected):
    (line,) = problems(load, JOB.replace(old, new))
    assert line.startswith(expected)


def test_all_problems_are_reported_together(load):
    lines = problems(load, JOB.replace('"d"', "3").replace('"y.npy"', "4"))
    assert [line.partition(":")[0] for line in lines] == ["codec.deployment", "output.path"]


def test_a_problem_of_the_preset_names_the_preset(load, tmp_path):
    (tmp_path / "own.toml").write_text("[codec]\n[chunks]\nrows = 0\n")
    (line,) = problems(load, JOB.replace("azure-openai-embeddings", "./own.toml").replace('deployment = "d"', ""))
    assert line == "preset './own.toml': chunks.rows: must be at least 1, not 0"


def test_a_value_from_the_environment_is_a_secret_in_a_message_about_the_preset(load):
    (line,) = problems(load, JOB.replace('"d"', '"d"\napi_version = "${V}"\ndimensions = 0'), V="very-secret-value")
    assert "very-secret-value" not in line


def test_status_needs_no_variable_of_a_preset(tmp_path):
    (tmp_path / "job.toml").write_text(JOB.replace('"d"', '"${DEPLOYMENT}"'), "utf-8")
    assert isinstance(load_job_or_outline(tmp_path / "job.toml", (), {}), Outline)
