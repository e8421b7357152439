"""``fanout init``: from an input and a URL to a job that runs."""

from __future__ import annotations

import asyncio
import json
import tomllib
from typing import TYPE_CHECKING

import numpy as np
import pytest
from aiohttp import web

from fanout.testing import Background
from tests.jobs import served
from tests.stores import s3, s3_server

__all__ = ["s3", "s3_server"]

if TYPE_CHECKING:
    from pathlib import Path

CUSTOMER = {
    "type": "object",
    "properties": {"age": {"type": "integer"}, "income": {"type": "number"}, "note": {"type": "string", "default": ""}},
    "required": ["age", "income"],
}
BATCH = {
    "type": "object",
    "properties": {"items": {"type": "array", "items": CUSTOMER}, "mode": {"type": "string"}},
    "required": ["items", "mode"],
}
DOCUMENT = {
    "openapi": "3.1.0",
    "paths": {
        path: {"post": {"requestBody": {"content": {"application/json": {"schema": schema}}}}}
        for path, schema in (("/score", CUSTOMER), ("/batch", BATCH))
    },
}


async def answer(request: web.Request) -> web.Response:
    if request.path == "/openapi.json":
        return web.json_response(DOCUMENT)
    body = await request.json()
    if request.path == "/score":
        if body.keys() != {"age", "income"}:
            return web.json_response({"detail": f"unknown fields {sorted(body)}"}, status=422)
        return web.json_response({"score": body["age"] + body["income"], "pair": [body["age"], 1]})
    if request.path == "/batch":
        assert body["mode"] == "fast"
        return web.json_response({"results": [{"label": f"aged {row['age']}"} for row in body["items"]]})
    return web.json_response({"detail": "Not Found"}, status=404)


@pytest.fixture
def url():
    with Background(served(answer)) as url:
        yield url


@pytest.fixture
def customers(tmp_path):
    lines = ["id,age,income", *(f"c{i},{i},{i}.5" for i in range(7))]
    (tmp_path / "customers.csv").write_text("\n".join(lines) + "\n")


def job(folder: Path, name: str = "job.toml"):
    return tomllib.loads((folder / name).read_text())


def test_a_server_of_one_object_a_request_needs_its_url_alone(command, customers, url, tmp_path):
    result = command("init", "--input", "customers.csv", "--url", f"{url}/score")
    assert result.code == 0, result.err
    assert "request: as the server's OpenAPI document describes POST /score" in result.err
    assert "  score (float64): 0.5\n  pair (float64 of shape [2]): [0.0, 1.0]\n" in result.out
    assert "next:\n  fanout check job.toml --show" in result.out
    made = job(tmp_path)
    assert made["codec"]["request"] == {"age": "{{age}}", "income": "{{income}}"}
    assert made["codec"]["outputs"] == {"score": "score", "pair": "pair"}
    assert command("check", "job.toml").code == 0
    assert command("run", "job.toml", "--quiet").code == 0
    np.testing.assert_array_equal(np.load(tmp_path / "job-answers.npy.score.npy"), [2 * i + 0.5 for i in range(7)])


def test_an_input_and_an_output_at_urls_are_written_as_they_are(command, url, s3, tmp_path, monkeypatch):
    for name, value in s3.options.items():
        monkeypatch.setenv(f"AWS_{name.upper()}", value)
    s3.put("in/customers.csv", b"age,income\n40,1.5\n50,2.5\n")
    (tmp_path / "jobs").mkdir()
    remote = ("--input", "s3://data/in/*.csv", "--output", "s3://data/out/scores.csv")
    ended = command("init", "jobs/job.toml", *remote, "--url", f"{url}/score")
    assert ended.code == 0, ended.err
    tables = tomllib.loads((tmp_path / "jobs" / "job.toml").read_text())
    assert (tables["input"]["path"], tables["output"]["path"]) == ("s3://data/in/*.csv", "s3://data/out/scores.csv")
    assert command("run", "jobs/job.toml").code == 0
    assert s3.get("out/scores.csv").splitlines()[1].startswith(b"41.5,")


def test_a_batch_of_objects_has_its_list_of_answers_found(command, customers, url, tmp_path):
    arguments = ("init", "--input", "customers.csv", "--id", "id", "--url", f"{url}/batch")
    result = command(*arguments)
    assert (result.code, (tmp_path / "job.toml").exists()) == (2, False)
    assert "--set codec.request.mode=VALUE is missing" in result.err
    assert command(*arguments, "--set", "codec.request.mode=fast").code == 0
    made = job(tmp_path)
    assert (made["codec"]["answers"], made["output"]["path"]) == ("results", "job-answers.jsonl")
    assert command("run", "job.toml", "--quiet").code == 0
    lines = (tmp_path / "job-answers.jsonl").read_text().splitlines()
    assert json.loads(lines[4]) == {"id": "c4", "label": "aged 4", "error": None}


def test_without_a_path_the_choices_are_those_of_the_document(command, customers, url, tmp_path):
    result = command("init", "--input", "customers.csv", "--url", url)
    assert result.code == 2
    assert result.err.endswith("error: --url needs a path, one of /score, /batch\n")
    assert not (tmp_path / "job.toml").exists()


def test_a_refusal_is_shown_and_the_file_stays_for_an_edit(command, customers, url, tmp_path):
    result = command("init", "--input", "customers.csv", "--url", f"{url}/scor")
    assert result.code == 3
    assert "has no POST /scor; it has /score, /batch" in result.err
    assert "response: HTTP 404" in result.out
    assert "error: the probe failed: HTTP 404: Not Found" in result.err
    assert job(tmp_path)["endpoint"]["url"].endswith("/scor")


def test_a_probe_whose_rows_are_refused_ends_with_the_reason_of_the_server(command, customers, url):
    result = command("init", "--input", "customers.csv", "--url", f"{url}/score", "--set", "codec.request.extra=1")
    assert result.code == 1
    assert "error: the probe failed: HTTP 422: " in result.err


@pytest.mark.parametrize(
    ("name", "url", "codec"),
    [
        ("digits.npz", "local://digits", {"name": "oip"}),
        ("texts.txt", "http://127.0.0.1:9/v1/embeddings", {"name": "openai-embeddings", "model": "m"}),
        ("x.npy", "http://127.0.0.1:9/v1/models/m:predict", {"name": "v1"}),
    ],
)
def test_a_known_path_decides_the_codec(command, tmp_path, name, url, codec):
    np.savez(tmp_path / "digits.npz", images=np.zeros((3, 64), "f4"))
    np.save(tmp_path / "x.npy", np.zeros(3))
    (tmp_path / "texts.txt").write_text("a\n")
    options = ("--set", "codec.model=m") if "model" in codec else ()
    result = command("init", "--input", name, "--url", url, "--no-probe", *options)
    assert result.code == 0, result.err
    assert job(tmp_path)["codec"] == codec
    assert command("check", "job.toml", "--dry-run").code == 0


def test_a_probe_of_tensors_shows_what_it_learnt(command, tmp_path):
    np.savez(tmp_path / "digits.npz", images=np.zeros((9, 64), "f4"))
    result = command("init", "--input", "digits.npz", "--url", "local://digits")
    assert (result.code, result.err) == (0, "input: 9 rows; images (vector)\n")
    assert "  probabilities (float32 of shape [10]): [" in result.out


def test_columns_of_numbers_are_a_vector_by_one_pattern(command, tmp_path):
    (tmp_path / "x.csv").write_text("key,f1,f2,f3\na,1,2,3\n")
    assert command("init", "--input", "x.csv", "--url", "local://echo", "--codec", "v1", "--no-probe").code == 0
    assert job(tmp_path)["input"] == {"path": "x.csv", "columns": ["f*"], "as": "vector"}


def test_a_preset_needs_its_parameters_and_a_token(command, tmp_path, monkeypatch):
    monkeypatch.delenv("AZURE_API_KEY", raising=False)
    (tmp_path / "x.jsonl").write_text('{"text": "a", "n": 1}\n')
    arguments = ("init", "--input", "x.jsonl", "--url", "http://h", "--preset", "azure-openai-embeddings")
    assert "--set codec.deployment=VALUE is missing: " in command(*arguments).err
    result = command(*arguments, "--set", "codec.deployment=d")
    assert (result.code, "AZURE_API_KEY is not set" in result.err) == (0, True)
    made = job(tmp_path)
    assert made["codec"] == {"preset": "azure-openai-embeddings", "deployment": "d"}
    assert (made["auth"], made["input"]["column"]) == ({"token": "${AZURE_API_KEY}"}, "text")


@pytest.mark.parametrize("token", ["sk-proj-s3cret", "hf_s3cretS3cret", "${sk-s3cret}"])
def test_a_token_in_place_of_its_variable_is_neither_written_nor_shown(command, tmp_path, token):
    (tmp_path / "x.jsonl").write_text('{"text": "a"}\n')
    arguments = ("init", "--input", "x.jsonl", "--url", "http://h/v1/embeddings", "--no-probe", "--token")
    result = command(*arguments, token)
    assert (result.code, "s3cret" in result.out + result.err) == (2, False)
    assert "--token is the name of an environment variable" in result.err
    assert not (tmp_path / "job.toml").exists()


@pytest.mark.parametrize(
    ("place", "flags"),
    [
        ("--url", ["--url", "https://user:s3cret@h/v1/embeddings"]),
        ("--url", ["--url", "https://h/v1/embeddings?api_key=s3cretS3cret"]),
        ("--input", ["--input", "https://user:s3cret@127.0.0.1:1/x.jsonl"]),
        ("--set endpoint.proxy", ["--set", "endpoint.proxy=http://user:s3cret@p:3128"]),
        ("--set endpoint.headers.X-Api-Key", ["--set", "endpoint.headers.X-Api-Key=s3cretS3cret"]),
        ("--set endpoint.headers.Authorization", ["--set", "endpoint.headers.Authorization=Bearer s3cretS3cret"]),
        ("--set auth.token", ["--set", "auth.token=s3cretS3cret"]),
        ("--set limits.shared", ["--set", "limits.shared=redis://:s3cret@h"]),
        ("--set storage.s3.aws_secret_access_key", ["--set", "storage.s3.aws_secret_access_key=s3cretS3cret"]),
    ],
)
def test_a_credential_is_neither_written_nor_shown(command, tmp_path, place, flags):
    (tmp_path / "x.jsonl").write_text('{"text": "a"}\n')
    result = command("init", "--input", "x.jsonl", "--url", "http://h/v1/embeddings", "--no-probe", *flags)
    assert (result.code, "s3cret" in result.out + result.err) == (2, False)
    assert f"error: {place}: a credential stays out of files: write '${{NAME}}' in its place" in result.err
    assert not (tmp_path / "job.toml").exists()


def test_a_credential_in_the_url_may_come_from_the_environment(command, tmp_path, monkeypatch):
    monkeypatch.setenv("KEY", "s3cretS3cret")
    (tmp_path / "x.jsonl").write_text('{"text": "a"}\n')
    url = "http://h/v1/embeddings?api_key=${KEY}"
    assert command("init", "--input", "x.jsonl", "--url", url, "--no-probe").code == 0
    assert job(tmp_path)["endpoint"]["url"] == url


def test_a_variable_in_small_letters_that_is_set_may_hold_the_token(command, tmp_path, monkeypatch):
    monkeypatch.setenv("my_key", "s3cret-token")
    (tmp_path / "x.jsonl").write_text('{"text": "a"}\n')
    arguments = ("init", "--input", "x.jsonl", "--url", "http://h/v1/embeddings", "--no-probe", "--token", "my_key")
    assert command(*arguments).code == 0
    assert job(tmp_path)["auth"] == {"token": "${my_key}"}


def test_a_preset_of_a_cloud_needs_no_token(command, tmp_path):
    (tmp_path / "x.jsonl").write_text('{"text": "a"}\n')
    arguments = ("init", "--input", "x.jsonl", "--url", "http://h", "--preset", "bedrock-titan-embed", "--no-probe")
    assert command(*arguments).code == 0
    assert job(tmp_path)["auth"] == {"type": "aws-sigv4"}


def test_a_template_of_a_preset_takes_columns_by_name(command, tmp_path):
    (tmp_path / "mine.toml").write_text(
        'description = "x"\npath = "/v1/rank"\n[codec]\nrequest = { query = "{{query}}", text = "{{passage}}" }\n'
    )
    (tmp_path / "x.csv").write_text("query,body,n\na,b,1\n")
    arguments = ("init", "--input", "x.csv", "--url", "http://127.0.0.1:9", "--preset", "./mine.toml", "--no-probe")
    result = command(*arguments)
    assert (result.code, (tmp_path / "job.toml").exists()) == (2, False)
    assert 'the request takes the columns "passage", which the input lacks: name yours by --set ' in result.err
    assert command(*arguments, "--set", 'input.rename={ body = "passage" }').code == 0
    assert command("check", "job.toml", "--dry-run").code == 0


def test_no_file_is_replaced_without_force(command, customers, url, tmp_path):
    (tmp_path / "job.toml").write_text("mine\n")
    arguments = ("init", "--input", "customers.csv", "--url", f"{url}/score")
    result = command(*arguments)
    assert (result.code, (tmp_path / "job.toml").read_text()) == (2, "mine\n")
    assert "job.toml exists already: give another name, or --force" in result.err
    assert command(*arguments, "--force").code == 0
    assert job(tmp_path)["codec"]["name"] == "json"


def test_a_file_that_cannot_be_replaced_stays_whole(command, customers, tmp_path, monkeypatch):
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "job.toml").write_text("mine\n")
    monkeypatch.setattr("os.fsync", full)
    result = command("init", "--input", "customers.csv", "--url", "http://h/x", "--no-probe", "--force")
    assert (result.code, (tmp_path / "job.toml").read_text()) == (2, "mine\n")
    assert "job.toml cannot be written: No space left on device" in result.err


async def test_without_a_terminal_a_missing_flag_is_an_error_and_no_question(start):
    # The pipe stays open: a command that read it would wait for ever.
    process = await start("init", stdin=asyncio.subprocess.PIPE)
    out = await asyncio.wait_for(process.stderr.read(), 20)
    assert await asyncio.wait_for(process.wait(), 20) == 2
    assert out == b"error: --input is missing: input file, folder or pattern\n"


def test_in_a_terminal_it_asks_for_what_is_open(command, customers, url, tmp_path, monkeypatch):
    answers = iter(["customers.csv", url, "/batch", "fast", "SCORE_KEY"])
    monkeypatch.setattr("fanout.cli.init_codec.has_terminal", lambda: True)
    monkeypatch.setattr("click.prompt", lambda *_, **__: next(answers))
    monkeypatch.setenv("SCORE_KEY", "s3cret-token")
    result = command("init")
    assert result.code == 0, result.err
    assert list(answers) == []
    made = job(tmp_path)
    assert (made["endpoint"]["url"], made["codec"]["request"]["mode"]) == (f"{url}/batch", "fast")
    assert made["auth"] == {"token": "${SCORE_KEY}"}
    assert "s3cret" not in result.out + result.err + (tmp_path / "job.toml").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--input", "missing.csv", "--url", "http://h"), "there is no file "),
        (("--input", "-", "--url", "http://h"), "--input: init reads the first rows"),
        (("--input", "customers.csv", "--url", "host/x"), "has no http:// or https:// in front"),
        (("--input", "customers.csv", "--url", "http://h", "--preset", "cohre"), "there is no preset 'cohre'"),
        (("--input", "customers.csv", "--url", "http://h", "--codec", "jsn", "--no-probe"), "there is no codec 'jsn'"),
        (
            ("--input", "customers.csv", "--url", "http://h", "--codec", "v1", "--preset", "x"),
            "give --preset or --codec",
        ),
        (("--input", "empty.csv", "--url", "http://h"), "holds no rows"),
    ],
)
def test_a_wrong_flag_is_one_line_and_writes_nothing(command, customers, tmp_path, arguments, message):
    (tmp_path / "empty.csv").write_text("a,b\n")
    result = command("init", *arguments)
    assert (result.code, (tmp_path / "job.toml").exists()) == (2, False)
    assert message in result.err
    assert "Traceback" not in result.err


def test_paths_in_a_job_in_another_folder_are_relative_to_it(command, customers, url, tmp_path):
    (tmp_path / "jobs").mkdir()
    arguments = ("--input", "customers.csv", "--url", f"{url}/score", "--output", "out/y.jsonl")
    assert command("init", "jobs/a.toml", *arguments).code == 0
    made = job(tmp_path, "jobs/a.toml")
    assert (made["input"]["path"], made["output"]["path"]) == ("../customers.csv", "../out/y.jsonl")
    assert command("run", "jobs/a.toml", "--quiet").code == 0
    assert len((tmp_path / "out" / "y.jsonl").read_text().splitlines()) == 7
