"""Run the code of README.md and docs/: Python blocks against a local server, job files, commands and shell lines."""

from __future__ import annotations

import ast
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
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import fanout
from fanout import preset
from fanout.cli import main
from fanout.job import load_job

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).absolute().parents[1]
HOME = Path(fanout.__file__).absolute().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
README = PAGES[0].read_text("utf-8")
SET_UP = "python3 -m venv .venv && .venv/bin/pip install -e "
VARIABLE = re.compile(r"(?:\$\{|environ\[.)(\w+)")
A_SERVER = "http://host:8000"
"""Stands in the pages for a server of the reader's; the tests put the local one in its place."""

JOB = {
    "input": 'path = "x.npy"',
    "endpoint": 'url = "http://host/x"',
    "codec": 'name = "json"',
    "output": 'path = "y.npy"',
}
"""Tables that a job file must have, for blocks that show only some of them."""


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    language: str
    text: str
    line: int
    """Number of its first line, so that a traceback shows the place in the page."""


def blocks(page: Path, *languages: str) -> list[Block]:
    """Return the page's blocks in some languages."""
    text = page.read_text("utf-8")
    fences = re.finditer(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    every = [Block(match[1], match[2], text.count("\n", 0, match.start(2)) + 1) for match in fences]
    return [block for block in every if block.language in languages]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_has_a_language_that_is_run_or_known(page: Path) -> None:
    opened = re.findall(r"^```(.*)$", page.read_text("utf-8"), re.MULTILINE)[::2]
    languages = {language for language in opened if not language.startswith("{")}
    # A block of bash installs something or starts a server; nothing runs it here.
    assert languages <= {"python", "toml", "console", "sh", "bash", "text"}


def pages_with(*languages: str) -> list[Any]:
    """Return the pages with blocks in some languages, as parameters."""
    return [pytest.param(page, id=page.name) for page in PAGES if blocks(page, *languages)]


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change into a copy of the files that the pages use, under a path with a space."""
    copy = tmp_path / "a checkout"
    shutil.copytree(ROOT / "examples", copy / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "config.example.toml", copy)
    monkeypatch.chdir(copy)
    return copy


@pytest.fixture
def registered(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install the entry points that the pages register, from the Python blocks that begin with the name of a file."""
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
    """Return the entry points in a TOML block, if it belongs to a pyproject.toml."""
    project: dict[str, Any] = tomllib.loads(block.text).get("project", {})
    return project.get("entry-points", {})


@pytest.mark.parametrize("page", pages_with("python"))
@pytest.mark.usefixtures("checkout", "registered", "shared_local")
def test_the_python_of_a_page_runs_and_prints_the_comments_beside_print(
    page: Path, local_server: Callable[[str], str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    namespace: dict[str, Any] = {"__name__": page.stem}
    for block in blocks(page, "python"):
        for name in VARIABLE.findall(block.text):
            monkeypatch.setenv(name, "secret")
        source = "\n" * (block.line - 1) + block.text.replace(A_SERVER, local_server("digits"))
        # Pages do not inherit the annotations of this file, which a pydantic model could not resolve.
        code = compile(source, str(page), "exec", PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
        result = eval(code, namespace)
        if inspect.iscoroutine(result):
            asyncio.run(result)
        printed = capsys.readouterr().out
        if shown := re.findall(r"^ *print\(.*\)  # (.*)$", block.text, re.MULTILINE):
            assert printed.splitlines() == shown, f"{page.name}, line {block.line}"


def classes_of(page: Path) -> str:
    """Return the imports and classes of a page, as a user would put them into a module."""
    nodes = [node for block in blocks(page, "python") for node in ast.parse(block.text).body]
    kept = [node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom | ast.ClassDef)]
    return ast.unparse(ast.Module(kept, []))


@pytest.mark.parametrize("page", pages_with("toml"))
@pytest.mark.usefixtures("registered")
def test_the_job_files_of_a_page_are_valid(page: Path, tmp_path: Path) -> None:
    (tmp_path / "my_codecs.py").write_text(classes_of(page))
    (tmp_path / "checks.py").write_text("def plausible(answer): ...\n")
    for block in blocks(page, "toml"):
        if "documentation" in tomllib.loads(block.text):
            (tmp_path / "preset.toml").write_text(block.text, "utf-8")
            preset(tmp_path / "preset.toml")
        elif not entry_points(block):
            missing = [f"[{table}]\n{line}" for table, line in JOB.items() if f"[{table}]" not in block.text]
            file = tmp_path / "job.toml"
            file.write_text("\n".join([block.text, *missing]), "utf-8")
            load_job(file, environment=dict.fromkeys(VARIABLE.findall(file.read_text("utf-8")), "x"))


def commands(*, as_processes: bool) -> list[Any]:
    """Return the lines that begin with ``fanout``: those that need a shell or a signal, or the others.

    A search by ``fanout tune`` takes seconds, so these lines are marked as slow.
    """
    lines = [line for page in PAGES for block in blocks(page, "console") for line in block.text.splitlines()]
    every = dict.fromkeys(line.removeprefix("$ ") for line in lines if line.startswith("$ fanout "))
    return [
        pytest.param(line, marks=[pytest.mark.slow] if line.startswith("fanout tune ") else [])
        for line in every
        if (">" in line or "serve" in line) == as_processes
    ]


@pytest.mark.parametrize("line", commands(as_processes=False))
@pytest.mark.usefixtures("checkout", "shared_local")
def test_the_commands_of_the_pages_succeed(line: str) -> None:
    with pytest.raises(SystemExit) as end:
        main(shlex.split(line)[1:])
    assert end.value.code == 0
    if written := re.search(r"output\.path=(\S+)$", line):
        assert Path(written[1]).stat().st_size > 0


@pytest.mark.parametrize("command", commands(as_processes=True))
def test_the_commands_of_the_pages_succeed_as_processes(command: str, checkout: Path) -> None:
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
@pytest.mark.parametrize("page", pages_with("sh"))
@pytest.mark.usefixtures("registered")
def test_the_shell_lines_of_a_page_run_one_after_the_other(page: Path, checkout: Path) -> None:
    python = shlex.quote(sys.executable)
    known = f'fanout() {{ {python} -m fanout "$@"; }}\npytest() {{ {python} -m pytest -q -p no:cacheprovider "$@"; }}\n'
    script = known + "".join(block.text for block in blocks(page, "sh"))
    environment = {**os.environ, "PYTHONPATH": str(HOME)}
    run = subprocess.run(["bash", "-euc", script], cwd=checkout, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


def test_the_two_commands_of_a_fresh_machine_are_on_the_first_screen() -> None:
    first_screen = README.splitlines()[:32]
    assert f"{SET_UP}. && .venv/bin/fanout run config.example.toml" in first_screen
    assert f"{SET_UP}'.[test]' && .venv/bin/python -m pytest" in first_screen


def test_ci_runs_the_two_commands_of_the_readme() -> None:
    ci = (ROOT / ".ci" / "run").read_text("utf-8")
    for command in re.findall(rf"^{re.escape(SET_UP)}.*$", README, re.MULTILINE):
        assert command.replace("pip install", "pip install -q") in ci


def test_the_readme_is_short() -> None:
    assert len(README.split()) < 1_000


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_links_of_a_page_lead_to_a_file_and_a_heading(page: Path) -> None:
    for link, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", page.read_text("utf-8")):
        target = page.parent / link if link else page
        if link.startswith("../fanout/"):  # the tests of the wheel have no source beside the pages
            target = HOME / link.removeprefix("../")
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), f"{link}#{anchor}"


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub makes of the page's headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
