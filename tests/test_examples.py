"""Run the examples unchanged, in a folder that is not a checkout, without a network."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from runpy import run_path
from typing import Any

import numpy as np
import orjson
import pytest

import fanout
from fanout.cli import main

ROOT = Path(__file__).absolute().parents[1]
HOME = Path(fanout.__file__).absolute().parents[1]
EXAMPLES = sorted(path.name for path in (ROOT / "examples").glob("*.py"))
NOT_PROGRAMS = {"example_models.py"}
ON_REAL_SERVERS = {"nearest_sentences.py", "triton_digits.py"}
"""Run by tests/real/test_examples.py."""

LONG = {"notebook.py", "score_digits.py", "streaming.py"}
AS_PROCESSES = {"library.py", "offline_test.py"}
"""Those that the fast tests run as the processes that they are; the slow tests run all of them so."""

OUTPUT = {
    "library.py": r"probabilities \(1797, 10\) float32\n(.*: True\n){2}3794 rows .*, 0 retries\nmost in flight [1-8],",
    "streaming.py": r"50000 rows, sum (\d+), expected \1\nnever more than \d{3,4} rows were read ahead",
    "notebook.py": r"seen: \[0 1 2.*\n1795 rows answered, 2 failed:\n  row 70: .*NaN.*\n  row 700: .*\n.*\none row: 0",
    "chat.py": r"'The battery lasts for', ended by length\n(.*\n){3}no answer\nrow 4: .*empty prompt\nusage: .*: 85}",
    "own_codec.py": r"'digit': \('int64', \(1797,\)\).*\nright: 9[5-9]\.\d%",
    "eight_chunks.py": r"800000 numbers, at most [1-4] requests .*, 0 retries\n.*\nequal to the direct result: True",
    "score_digits.py": r"accuracy 0\.9[5-9]\d+ on 1797 images\n(  \d: .*\n){10}",
    "offline_test.py": r"2 passed",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Copy the examples and their inputs to a path with a space, so that they write nothing into the checkout."""
    copy = tmp_path / "a checkout"
    shutil.copytree(ROOT / "examples", copy / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "config.example.toml", copy)
    return copy


def run(*arguments: object, cwd: Path) -> str:
    """Return the output of a Python program that can import this fanout and nothing else of the checkout."""
    environment = {**os.environ, "PYTHONPATH": str(HOME)}
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=cwd, env=environment, capture_output=True, text=True, timeout=50
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_example_is_run_here() -> None:
    assert set(EXAMPLES) == OUTPUT.keys() | NOT_PROGRAMS | ON_REAL_SERVERS


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in AS_PROCESSES else [pytest.mark.slow]) for name in sorted(OUTPUT)]
)
def test_an_example_runs_from_any_folder_and_prints_its_results(name: str, folder: Path) -> None:
    elsewhere = folder.parent / "elsewhere"
    elsewhere.mkdir()
    assert re.search(OUTPUT[name], run(folder / "examples" / name, cwd=elsewhere))


@pytest.mark.parametrize("name", sorted(OUTPUT.keys() - LONG - {"offline_test.py"}))
@pytest.mark.usefixtures("shared_local")
def test_an_example_prints_its_results(name: str, folder: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `test_an_example_runs_from_any_folder_and_prints_its_results` does, in the process of the tests."""
    monkeypatch.syspath_prepend(str(folder / "examples"))
    monkeypatch.chdir(folder.parent)
    run_path(str(folder / "examples" / name), run_name="__main__")
    assert re.search(OUTPUT[name], capsys.readouterr().out)


@pytest.mark.slow
def test_the_tests_of_the_example_are_collected_by_pytest(folder: Path) -> None:
    assert "2 tests collected" in run("-m", "pytest", "-q", "--collect-only", "examples/offline_test.py", cwd=folder)


@pytest.mark.slow
def test_the_tests_of_the_example_run_inside_the_checkout_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")  # its settings make errors of warnings
    assert "2 passed" in run(ROOT / "examples" / "offline_test.py", cwd=tmp_path)


@pytest.mark.usefixtures("shared_local")
def test_the_second_job_writes_json_lines(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    with pytest.raises(SystemExit) as end:
        main(["run", "examples/echo.toml"])
    assert end.value.code == 0
    lines = (folder / "out" / "echo.jsonl").read_bytes().splitlines()
    assert [orjson.loads(line) for line in lines] == np.load(folder / "examples" / "digits.npz")["labels"].tolist()


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_fits_a_screen(name: str) -> None:
    assert len((ROOT / "examples" / name).read_text("utf-8").splitlines()) <= 40
