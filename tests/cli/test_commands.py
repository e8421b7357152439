"""The commands' faces: help that teaches, quick to show, and codes from one table."""

from __future__ import annotations

import asyncio
import json
import resource
import signal
import subprocess
import sys

import pytest
from click.testing import CliRunner

from fanout import __version__
from fanout.cli import cli, main
from tests.cli.conftest import ROOT, ended


@pytest.mark.parametrize("command", ["run", "check", "serve", "schema"])
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
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert shown.stdout == "\n"


def test_help_costs_little_cpu():
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "fanout", "--help"], cwd=ROOT, capture_output=True, check=True)
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


def test_a_wrong_option_is_told_in_json_too(capsys):
    assert code_of("run", "job.toml", "--json", "--rows", "x") == 2
    assert json.loads(capsys.readouterr().out)["exit_code"] == 2


def test_ctrl_c_outside_a_run_ends_with_code_130(monkeypatch):
    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("fanout.cli.output.schema_text", interrupt)
    assert code_of("schema") == 130


async def test_a_reader_that_goes_away_is_no_error(start):
    process = await start("schema")
    process._transport.get_pipe_transport(1).close()
    result = await ended(process)
    assert result.err == ""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
async def test_serve_prints_its_url_and_ends_on_a_signal(start, number, code):
    process = await start("serve", "echo", "--port", 0)
    url = (await asyncio.wait_for(process.stdout.readline(), 10)).decode()
    assert url.startswith("http://127.0.0.1:")
    process.send_signal(number)
    result = await ended(process)
    assert (result.code, result.out, result.err) == (code, "", "press Ctrl-C to stop\n")


def test_serve_refuses_a_model_that_does_not_exist():
    result = CliRunner().invoke(cli, ["serve", "digts"])
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
