"""What README.md and docs/ show is run: Python blocks against a local server, jobs are checked, commands executed."""

from __future__ import annotations

import asyncio
import inspect
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
from ast import PyCF_ALLOW_TOP_LEVEL_AWAIT
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import fanout
from fanout.cli import main
from fanout.codecs import codec_class
from fanout.job import load_job
from fanout.serving.local import LocalServer

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).absolute().parents[1]
HOME = Path(fanout.__file__).absolute().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
README = PAGES[0].read_text("utf-8")
SET_UP = "python3 -m venv .venv && .venv/bin/pip install -e "
A_SERVER = "http://host:8000"
"""Stands in the text for a server of the reader's; here, for the local one."""

JOB = {
    "input": 'path = "x.npy"',
    "endpoint": 'url = "http://host/x"',
    "codec": 'name = "json"',
    "output": 'path = "y.npy"',
}


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    language: str
    text: str
    line: int
    """Number of its first line, so that a traceback shows the place in the page."""


def blocks(page: Path, *languages: str) -> list[Block]:
    """The page's blocks in some languages."""
    text = page.read_text("utf-8")
    found = re.finditer(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    every = [Block(match[1], match[2], text.count("\n", 0, match.start(2)) + 1) for match in found]
    return [block for block in every if block.language in languages]


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: a copy of what the pages speak of, under a path with a space."""
    copy = tmp_path / "a checkout"
    shutil.copytree(ROOT / "examples", copy / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "config.example.toml", copy)
    monkeypatch.chdir(copy)
    return copy


@pytest.fixture(scope="module")
def served() -> Iterator[str]:
    """Base URL of a local server of the digits."""
    server = LocalServer("digits")
    with asyncio.Runner() as runner:
        yield runner.run(server.start())
        runner.run(server.stop())


@pytest.fixture
def registered(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the pages register as an entry point is installed, from the Python blocks that begin with a file's name."""
    for page in PAGES:
        for block in blocks(page, "python"):
            if module := re.match(r"# (\w+\.py)\n", block.text):
                (checkout / module[1]).write_text(block.text, "utf-8")
        for points in (entry_points(block) for block in blocks(page, "toml")):
            for group, names in points.items():
                info = checkout / f"{group.replace('.', '_')}-1.0.dist-info"
                info.mkdir()
                lines = [f"{name} = {place}" for name, place in names.items()]
                (info / "entry_points.txt").write_text("\n".join([f"[{group}]", *lines]), "utf-8")
    monkeypatch.syspath_prepend(str(checkout))


def entry_points(block: Block) -> dict[str, dict[str, str]]:
    """The entry points in a TOML block, if it is of a pyproject.toml."""
    project: dict[str, Any] = tomllib.loads(block.text).get("project", {})
    return project.get("entry-points", {})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
@pytest.mark.usefixtures("checkout", "registered")
def test_the_python_of_a_page_runs_and_prints_what_the_page_says(
    page: Path, served: str, capsys: pytest.CaptureFixture[str]
) -> None:
    namespace: dict[str, Any] = {"__name__": page.stem}
    for block in blocks(page, "python"):
        source = "\n" * (block.line - 1) + block.text.replace(A_SERVER, served)
        code = compile(source, str(page), "exec", PyCF_ALLOW_TOP_LEVEL_AWAIT)
        result = eval(code, namespace)
        if inspect.iscoroutine(result):
            asyncio.run(result)
        printed = capsys.readouterr().out
        if said := re.findall(r"^ *print\(.*\)  # (.*)$", block.text, re.MULTILINE):
            assert printed.splitlines() == said, f"{page.name}, line {block.line}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
@pytest.mark.usefixtures("registered")
def test_the_jobs_of_a_page_are_valid(page: Path, tmp_path: Path) -> None:
    for block in blocks(page, "toml"):
        if not entry_points(block):
            missing = [f"[{table}]\n{line}" for table, line in JOB.items() if f"[{table}]" not in block.text]
            file = tmp_path / "job.toml"
            file.write_text("\n".join([block.text, *missing]), "utf-8")
            load_job(file, environment={"ML_API_KEY": "x"})


def commands(*, alone: bool) -> list[Any]:
    """The command lines that begin with ``fanout``, if they need a shell or a signal, or do not. Searches are slow."""
    lines = [line for page in PAGES for block in blocks(page, "console") for line in block.text.splitlines()]
    found = dict.fromkeys(line.removeprefix("$ ") for line in lines if line.startswith("$ fanout "))
    return [
        pytest.param(line, marks=[pytest.mark.slow] if line.startswith("fanout tune ") else [])
        for line in found
        if (">" in line or "serve" in line) == alone
    ]


@pytest.mark.parametrize("line", commands(alone=False))
@pytest.mark.usefixtures("checkout")
def test_the_commands_of_the_pages_do_what_they_say(line: str) -> None:
    with pytest.raises(SystemExit) as end:
        main(shlex.split(line)[1:])
    assert end.value.code == 0
    if written := re.search(r"output\.path=(\S+)$", line):
        assert Path(written[1]).stat().st_size > 0


@pytest.mark.parametrize("command", commands(alone=True))
def test_the_commands_of_the_pages_do_what_they_say_as_processes(command: str, checkout: Path) -> None:
    fanout_here = f"{shlex.quote(sys.executable)} -m fanout "
    line = "exec " + command.replace("fanout ", fanout_here, 1).replace("--port 8000", "--port 0")
    environment = {**os.environ, "PYTHONPATH": str(HOME)}
    with subprocess.Popen(
        line, shell=True, cwd=checkout, env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        if "serve" in command:
            assert process.stdout.readline().startswith("http://127.0.0.1:")
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 130
        else:
            process.communicate(timeout=40)
            assert process.returncode == 0
    if written := re.search(r"> (\S+)$", command):
        assert (checkout / written[1]).stat().st_size > 0


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "sh")], ids=lambda page: page.name)
@pytest.mark.usefixtures("registered")
def test_the_shell_lines_of_a_page_run_one_after_the_other(page: Path, checkout: Path) -> None:
    python = shlex.quote(sys.executable)
    known = f'fanout() {{ {python} -m fanout "$@"; }}\npytest() {{ {python} -m pytest -q -p no:cacheprovider "$@"; }}\n'
    script = known + "".join(block.text for block in blocks(page, "sh"))
    environment = {**os.environ, "PYTHONPATH": str(HOME)}
    done = subprocess.run(["bash", "-euc", script], cwd=checkout, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_two_commands_of_a_fresh_machine_are_on_the_first_screen() -> None:
    first_screen = README.splitlines()[:30]
    assert f"{SET_UP}. && .venv/bin/fanout run config.example.toml" in first_screen
    assert f"{SET_UP}'.[test]' && .venv/bin/python -m pytest" in first_screen


@pytest.mark.parametrize(
    "settings", [fanout.Limits, fanout.RetryPolicy, fanout.Hedge, fanout.Timeouts, fanout.Endpoint]
)
def test_the_table_of_settings_has_every_field_with_its_default(settings: Any) -> None:
    rows = re.findall(rf"^\| `{settings.__name__}` \| `(\w+)` \| (.*?) \|", README, re.MULTILINE)
    assert rows == [(field.name, shown(field)) for field in fields(settings)]


def shown(field: Any) -> str:
    """A default as the table has it."""
    if field.default is MISSING:
        return "required" if field.default_factory is MISSING else "none"
    if field.name.endswith("_bytes"):
        mib = field.default // 2**20
        return f"{mib} MiB" if mib else f"{field.default // 2**10} KiB"
    if field.name == "url":
        return "required"
    return "none" if field.default in (None, ()) else f"{field.default:g}"


def test_the_table_of_codecs_has_every_codec_with_its_options() -> None:
    from fanout.codecs import _PACKAGED

    rows = dict(re.findall(r"^\| `([a-z0-9-]+)` \| .*? \| (.*) \|$", README, re.MULTILINE))
    assert rows.keys() >= _PACKAGED.keys()
    for name in _PACKAGED:
        for option in inspect.signature(codec_class(name)).parameters.keys() - {"dtype", "shape", "nonfinite"}:
            assert re.search(rf"`{option}\b", rows[name]), f"option {option} of {name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_links_of_a_page_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text("utf-8")):
        assert (page.parent / link).exists(), link
