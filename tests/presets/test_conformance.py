"""Every packaged preset against a mock of its API, from a job file, in virtual time."""

from __future__ import annotations

import json
from dataclasses import replace
from math import ceil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import fanout
from fanout.auth.clouds import SigV4Auth
from fanout.job import load_job
from fanout.job.opening import client_of
from fanout.job.run import run_job
from fanout.presets import load_preset, preset_names
from fanout.testing import in_virtual_time
from tests.presets.apis import APIS
from tests.presets.mock_api import TOKEN, MockApi

if TYPE_CHECKING:
    from pathlib import Path

    from fanout import Result
    from fanout.job import Job
    from fanout.presets import PresetFile
    from tests.presets.mock_api import Api

ROWS = 300
ids = [f"{api.preset}-{place}" for place, api in enumerate(APIS)]
every_api = pytest.mark.parametrize("api", APIS, ids=ids)


def job_of(api: Api, folder: Path, *more: str) -> Job:
    """Load a job file with the preset of an API, as a user would write it."""
    lines = [f"{key} = {toml(value)}" for key, value in {**api.options, **api.own}.items()]
    text = f"""
[input]
path = "rows.jsonl"
[endpoint]
url = "https://api.example"
[auth]
{api.auth}
[codec]
preset = "{api.preset}"
{chr(10).join(lines)}
[output]
path = "answers.jsonl"
"""
    (folder / "job.toml").write_text(text, "utf-8")
    return load_job(folder / "job.toml", more, {"TOKEN": TOKEN})


@pytest.fixture(autouse=True)
def aws_keys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Set AWS keys in the environment, the only place where they are looked up."""
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", TOKEN)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")


def toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {toml(inner)}" for key, inner in value.items()) + " }"
    return json.dumps(value)


def has_one_shape(preset: PresetFile) -> bool:
    """True if all answers of an API have the same shape, whatever its model is."""
    codec = preset.tables["codec"]
    outputs = codec.get("outputs", {}).values()
    return codec.get("name") == "openai-chat" or (
        bool(outputs) and all("shape" in output or output["type"] in ("str", "json") for output in outputs)
    )


@in_virtual_time
async def answers_of(job: Job, transport: MockApi, rows: list[Any]) -> Result:
    """Send rows to a mock with the settings of a job."""
    if isinstance(job.auth, SigV4Auth):
        pytest.importorskip("botocore")
    async with client_of(job, transport) as client:
        return await client.map(rows, on_error="keep")


def rows_of(result: Result) -> list[Any]:
    """Return the values of each row, texts of JSON decoded."""
    values = result.values
    if not isinstance(values, dict):
        return [decoded(value) for value in values.tolist()]
    columns = {name: array.tolist() for name, array in values.items()}
    return [{name: decoded(column[i]) for name, column in columns.items()} for i in range(len(result.ok))]


def decoded(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) and value[:1] in ("[", "{") else value


@every_api
def test_300_rows_with_5_percent_of_errors_are_right_with_at_most_10_percent_more_requests(api, tmp_path):
    job = job_of(api, tmp_path, "chunks.rows=3", "limits.concurrency=16", "retry.initial_backoff=0.1")
    mock = MockApi(api, share=0.05)
    rows = [api.row(i) for i in range(ROWS)]
    result = answers_of(job, mock, rows)
    assert not result.failures
    assert result.ok.all()
    assert rows_of(result) == [api.expected(row) for row in rows]
    fewest = ROWS // max(mock.sizes)
    assert sum(mock.sizes) == ROWS
    assert fewest < mock.requests <= 1.1 * fewest
    assert set(mock.statuses) <= {200, *api.busy}
    assert 8 < mock.most_in_flight <= 16


@every_api
def test_the_preset_s_own_chunks_are_within_the_limit_of_the_api(api, tmp_path):
    mock = MockApi(api)
    job = job_of(api, tmp_path)
    rows = [api.row(i) for i in range(ROWS)]
    result = answers_of(job, mock, rows)
    assert rows_of(result) == [api.expected(row) for row in rows]
    assert mock.statuses == {200: mock.requests}
    assert mock.requests == (ROWS if max(mock.sizes) == 1 else ceil(ROWS / max(mock.sizes)))


@pytest.mark.parametrize("api", [api for api in APIS if api.largest], ids=lambda api: api.preset)
def test_larger_chunks_of_the_job_are_cut_to_the_limit_of_the_api(api, tmp_path):
    mock = MockApi(api)
    rows = [api.row(i) for i in range(2 * api.largest)]
    # The bound on tokens would cut them before.
    result = answers_of(job_of(api, tmp_path, f"chunks.rows={len(rows)}", "chunks.max_tokens=10000000"), mock, rows)
    assert result.ok.all()
    # The administrator of a server of one's own may have set another limit, which the first refusals show.
    if not api.preset.startswith("tei"):
        assert mock.statuses == {200: 2}


EXAMPLES = {"string": "x", "integer": 4, "number": 0.5, "boolean": True, "object": {"type": "object"}, "array": []}


@every_api
def test_every_optional_parameter_becomes_a_field_that_the_api_knows(api, tmp_path):
    parameters = load_preset(api.preset).parameters.values()
    given = {one.name: one.choices[0] if one.choices else EXAMPLES[one.type] for one in parameters if one.optional}
    # With a query rows are documents, which is an API of its own here.
    given = {name: value for name, value in given.items() if name != "query"}
    strict = replace(api, options={**given, **api.options}, unknown=400)
    mock = MockApi(strict)
    rows = [api.row(i) for i in range(3)]
    assert rows_of(answers_of(job_of(strict, tmp_path), mock, rows)) == [api.expected(row) for row in rows]
    assert set(mock.statuses) == {200}


@every_api
def test_a_job_with_the_preset_can_be_rehearsed(api, tmp_path):
    job = job_of(api, tmp_path, *() if has_one_shape(load_preset(api.preset)) else ["mock.shape=[4]"])
    rows = [api.row(i) for i in range(5)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    summary = in_virtual_time(run_job)(job, mock=True)
    assert (summary.ok, summary.exit_code) == (5, 0)


@every_api
def test_a_wrong_key_stops_the_run_at_the_first_answer_with_the_server_s_words(api, tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "wrong")
    wrong = [] if "TOKEN" not in api.auth else ["auth.token=wrong"]
    job = job_of(api, tmp_path, "limits.concurrency=1", *wrong)
    mock = MockApi(api)
    status, words = api.unauthorized
    with pytest.raises(fanout.RunStopped, match=words) as caught:
        answers_of(job, mock, [api.row(i) for i in range(ROWS)])
    assert caught.value.kind == "refused"
    assert mock.statuses == {status: 1}


def test_every_preset_has_a_mock():
    assert {api.preset for api in APIS} == set(preset_names())


@every_api
def test_the_options_of_the_job_are_parameters_of_the_preset(api):
    assert set(api.options) <= set(load_preset(api.preset).parameters)


def test_a_row_of_numbers_in_place_of_texts_is_named(tmp_path):
    api = next(api for api in APIS if api.preset == "azure-openai-embeddings")
    with pytest.raises(fanout.InputError, match="embeddings are made of texts"):
        answers_of(job_of(api, tmp_path), MockApi(api), np.zeros((3, 2)))
