"""``fanout presets`` and ``fanout presets show``."""

from __future__ import annotations

import json

import numpy as np
import pytest
from aiohttp import web
from click.testing import CliRunner

from fanout.cli import cli, main
from fanout.job import load_job
from fanout.presets import load_preset, preset_names
from fanout.testing import Background
from fanout.transport.base import Request
from tests.jobs import served
from tests.presets.apis import APIS
from tests.presets.mock_api import TOKEN, MockApi, score, vector


def output_of(*arguments: str) -> str:
    result = CliRunner().invoke(cli, ["presets", *arguments])
    assert result.exit_code == 0
    return result.output


def test_every_preset_is_listed_with_its_description():
    lines = output_of().splitlines()
    for name, line in zip(preset_names(), lines, strict=False):
        assert line.split() == [name, *load_preset(name).description.split()]


def test_json_has_all_facts_of_every_preset():
    presets = json.loads(output_of("--json"))["presets"]
    assert [preset["name"] for preset in presets] == preset_names()
    azure = json.loads(output_of("show", "azure-openai-chat", "--json"))
    assert azure in presets
    assert azure["parameters"]["deployment"]["required"] is True
    assert azure["tables"]["auth"] == {"type": "api-key", "header": "api-key"}


@pytest.mark.parametrize("name", preset_names())
def test_the_shown_job_file_is_valid(name, tmp_path):
    shown = output_of("show", name)
    assert load_preset(name).documentation in shown
    job = shown.partition("A job file to start from:\n")[2].partition("The file of the preset")[0]
    (tmp_path / "job.toml").write_text(job)
    loaded = load_job(tmp_path / "job.toml", (), {"API_KEY": "k"})
    assert loaded.endpoint.url.startswith(("https://", "http://localhost:8000/"))
    assert all(f"  {parameter}  " in shown for parameter in load_preset(name).parameters)


def test_the_shown_job_file_names_every_column_of_the_requests():
    assert 'columns = ["documents", "query"]' in output_of("show", "nim-rerank")
    assert 'column = "text"' in output_of("show", "tei-embed")


def test_the_file_can_be_copied_and_changed(tmp_path, monkeypatch):
    text = output_of("show", "mlflow", "--file")
    assert text == load_preset("mlflow").file.read_text("utf-8")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.toml").write_text(text.replace('"/invocations"', '"/other"'))
    assert "Requests go to /other below" in output_of("show", "./mine.toml")


def test_a_wrong_file_or_name_is_an_error_of_one_line(tmp_path, capsys):
    (tmp_path / "mine.toml").write_text('path = "http://evil.example/"\n')
    for name, message in [("mlfow", "did you mean 'mlflow'?"), (str(tmp_path / "mine.toml"), "path: must begin")]:
        with pytest.raises(SystemExit) as ended:
            main(["presets", "show", name])
        assert ended.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ")
        assert message in line


def served_api(preset: str, **options: str):
    """Serve the mock of an API on a real socket, on a thread of its own."""
    mock = MockApi(next(api for api in APIS if api.preset == preset and api.options.items() >= options.items()), 0.05)

    async def handle(request: web.Request) -> web.Response:
        sent = Request("POST", str(request.url), dict(request.headers), (await request.read(),))
        answered = await mock.send(sent)
        return web.Response(status=answered.status, body=answered.body, content_type="application/json")

    return Background(served(handle))


def test_a_job_with_a_preset_runs_from_the_command_line_into_an_array(command, tmp_path, monkeypatch):
    monkeypatch.setenv("COHERE_API_KEY", TOKEN)
    texts = [f"text {i}" for i in range(40)]
    (tmp_path / "texts.txt").write_text("\n".join(texts) + "\n")
    with served_api("cohere-embed") as url:
        (tmp_path / "job.toml").write_text(f"""
[input]
path = "texts.txt"
[endpoint]
url = "{url}/v2"
[auth]
token = "${{COHERE_API_KEY}}"
[codec]
preset = "cohere-embed"
model = "embed-v4.0"
input_type = "search_document"
[chunks]
rows = 4
[retry]
initial_backoff = 0.01
[output]
path = "vectors.npy"
""")
        checked = command("check", "job.toml")
        result = command("run", "job.toml")
    assert f"endpoint: {url}/v2/embed, codec json (preset cohere-embed)" in checked.out
    assert (result.code, result.err) == (0, "")
    assert "40 rows: 40 ok, 0 failed" in result.out
    vectors = np.load(tmp_path / "vectors.npy")
    assert vectors.dtype == np.float32
    assert vectors.tolist() == [vector(text) for text in texts]
    assert TOKEN not in (tmp_path / "vectors.npy.journal").read_text("latin-1") + result.out


def test_a_preset_of_one_s_own_runs_from_the_command_line(command, tmp_path):
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"text": f"t{i}", "id": i}) + "\n" for i in range(7)))
    text = load_preset("tei-rerank").file.read_text("utf-8")
    (tmp_path / "mine.toml").write_text(
        text.replace("[given.query.chunks]\nrows = 32", "[given.query.chunks]\nrows = 2")
    )
    with served_api("tei-rerank", query="one query") as url:
        (tmp_path / "job.toml").write_text(f"""
[input]
path = "rows.jsonl"
column = "text"
id = "id"
[endpoint]
url = "{url}"
[auth]
token = "{TOKEN}"
[codec]
preset = "./mine.toml"
query = "one query"
[output]
path = "scores.jsonl"
""")
        result = command("run", "job.toml")
    assert result.code == 0, result.out + result.err
    rows = [json.loads(line) for line in (tmp_path / "scores.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == list(range(7))
    assert [np.float32(row["scores"]) for row in rows] == [score("one query", f"t{i}") for i in range(7)]
