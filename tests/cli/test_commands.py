"""The commands' faces: help that teaches, quick to show, and codes from one table."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import subprocess
import sys

import numpy as np
import pytest
from click.testing import CliRunner

import fanout
from fanout import __version__
from fanout.cli import cli, main
from fanout.testing import FAULTS
from tests.cli.conftest import INSTALLED, ended


@pytest.mark.parametrize("command", ["run", "init", "check", "tune", "serve", "schema", "presets"])
def test_every_command_s_help_has_an_example(command):
    result = CliRunner().invoke(cli, [command, "--help"])
    assert result.exit_code == 0
    assert f"  fanout {command}" in result.output.split("Example")[1]


def test_the_version_is_printed():
    assert CliRunner().invoke(cli, ["--version"]).output == f"fanout, version {__version__}\n"


def test_help_imports_nothing_heavy():
    code = (
        "import sys, fanout.cli; print(*sorted({'numpy', 'aiohttp', 'pydantic', 'rich', 'asyncio'} & set(sys.modules)))"
    )
    shown = subprocess.run([sys.executable, "-c", code], cwd=INSTALLED, capture_output=True, text=True, check=True)
    assert shown.stdout == "\n"


def test_help_costs_little_cpu():
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "fanout", "--help"], cwd=INSTALLED, capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # 0.05 s where it was written; coverage and slow machines get their share.
    assert after.ru_utime - before.ru_utime < 0.5


def code_of(*arguments: str) -> object:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    return caught.value.code


def test_a_command_that_does_not_exist_ends_with_code_2(capsys):
    assert code_of("rnu") == 2
    assert "No such command" in capsys.readouterr().err


def test_a_wrong_option_is_reported_in_json_too(capsys):
    assert code_of("run", "job.toml", "--json", "--rows", "x") == 2
    assert json.loads(capsys.readouterr().out)["exit_code"] == 2


def test_ctrl_c_outside_a_run_ends_with_code_130(monkeypatch):
    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("fanout.cli.output.schema_text", interrupt)
    assert code_of("schema") == 130


async def test_a_reader_that_goes_away_is_no_error(start):
    reader, writer = os.pipe()
    process = await start("schema", stdout=writer)
    os.close(writer)
    os.close(reader)
    result = await ended(process)
    assert result.err == ""


@pytest.mark.parametrize(
    ("number", "code"), [pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow), (signal.SIGTERM, 143)]
)
async def test_serve_prints_its_url_and_ends_on_a_signal(start, number, code):
    process = await start("serve", "echo", "--port", 0)
    url = (await asyncio.wait_for(process.stdout.readline(), 50)).decode()
    assert url.startswith("http://127.0.0.1:")
    process.send_signal(number)
    result = await ended(process)
    assert (result.code, result.out, result.err) == (code, "", "press Ctrl-C to stop\n")


def test_serve_refuses_a_model_that_does_not_exist(command):
    result = command("serve", "digts")
    assert result.code == 2
    assert result.err.startswith("error: ")
    assert result.err.count("\n") == 1


async def test_serve_has_the_faults_that_are_asked_for_and_no_others(start):
    process = await start("serve", "echo", "--port", 0, "--faults", "503=1.0", "--seed", 7)
    url = (await asyncio.wait_for(process.stdout.readline(), 50)).decode().strip()
    async with fanout.Client(url, codec=fanout.codec("json", request="{{rows}}", answers="@")) as client:
        assert np.array_equal(await client.map(np.ones((3, 2))), np.ones((3, 2)))  # the third attempt has none
        assert client.statistics().retries == 2
    process.send_signal(signal.SIGTERM)
    result = await ended(process)
    assert (result.code, result.out, result.err) == (143, "", "press Ctrl-C to stop\n")


@pytest.mark.parametrize(
    ("faults", "message"), [("dripp=0.1", "did you mean 'drip'?"), ("drip", "NAME=PROBABILITY"), ("503=2", "0 to 1")]
)
def test_serve_refuses_faults_that_make_no_sense(command, faults, message):
    result = command("serve", "echo", "--faults", faults)
    assert result.code == 2
    assert message in result.err


def test_the_help_of_serve_names_every_fault():
    result = CliRunner().invoke(cli, ["serve", "--help"])
    assert result.exit_code == 0
    for name in FAULTS:
        assert f"  {name} " in result.stdout


def test_status_notices_a_job_that_is_not_the_one_that_ran(command, write_job, doubler_aside, tmp_path):
    def is_current(*settings: str) -> bool:
        return json.loads(command("status", "job.toml", "--json", *settings).out)["current"]

    write_job(url=doubler_aside.url)
    assert command("run", "job.toml").code == 0
    assert is_current()
    (tmp_path / "x.npy").touch()
    assert is_current("--set", "limits.concurrency=3"), "neither a time nor a limit changes an answer"
    assert not is_current("--set", 'codec.dtype="float32"')
    assert not is_current("--set", f'endpoint.url="{doubler_aside.url}/other"')
    np.save(tmp_path / "x.npy", np.load(tmp_path / "x.npy") + 1)
    assert not is_current()


def test_status_needs_no_secrets(command, write_job, doubler_aside, monkeypatch):
    file = write_job(url="${MODEL_URL}")
    file.write_text(file.read_text().replace("[endpoint]", '[endpoint]\nheaders = { A = "Bearer ${TOKEN}" }'))
    monkeypatch.setenv("TOKEN", "s3cret-token")
    monkeypatch.setenv("MODEL_URL", doubler_aside.url)
    assert command("run", "job.toml").code == 0
    assert json.loads(command("status", "job.toml", "--json").out)["current"] is True
    monkeypatch.delenv("TOKEN")
    monkeypatch.delenv("MODEL_URL")
    status = json.loads(command("status", "job.toml", "--json").out)
    assert (status["ok"], status["complete"], status["current"]) == (10, True, None)
    assert "10 rows: 10 ok, 0 failed, 0 pending; complete; variables" in command("status", "job.toml").out
    for wrong in ("output.path=[]", "input.path=${TOKEN}", "limits.concurency=1"):
        ended = command("status", "job.toml", "--set", wrong)
        assert (ended.code, wrong.split("=")[0] in ended.err) == (2, True)
    assert command("run", "job.toml").code == 2


@pytest.mark.parametrize(
    ("words", "completed"), [("fanout fail", "plain,failures"), ("fanout run --only", "plain,--only-failed")]
)
def test_a_shell_completes_commands_and_options(command, monkeypatch, words, completed):
    monkeypatch.setenv("_FANOUT_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(words.count(" ")))
    result = command()
    assert (result.code, completed in result.out.splitlines()) == (0, True)
