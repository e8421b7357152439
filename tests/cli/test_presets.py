"""``fanout presets`` and ``fanout presets show``."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from fanout.cli import cli, main
from fanout.job import load_job
from fanout.presets import load_preset, preset_names


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
