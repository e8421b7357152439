"""MLflow's scoring server, from job files with the preset."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.real.conftest import python

if TYPE_CHECKING:
    from pathlib import Path

    from tests.real.conftest import Real

pytestmark = [pytest.mark.real, pytest.mark.timeout(300, func_only=True)]
JOB = """
[input]
path = "rows.csv"
id = "id"
columns = {columns}
[endpoint]
url = "{url}"
[codec]
preset = "mlflow"
{codec}
[chunks]
rows = 8
[output]
path = "answers.jsonl"
"""


def run(
    url: str, folder: Path, codec: str = "", *, bad: int = -1, columns: tuple[str, ...] = ("a", "b", "text")
) -> tuple[int, str, list[dict[str, object]]]:
    """Run a job for 50 rows, of which one may have a value that the model refuses.

    Returns its exit code, all that it prints, and the answers.
    """
    lines = [f"r{i},{-1 if i == bad else i},{i / 4},text {i}" for i in range(50)]
    (folder / "rows.csv").write_text("\n".join(["id,a,b,text", *lines]) + "\n")
    (folder / "job.toml").write_text(JOB.format(url=url, codec=codec, columns=list(columns)))
    done = python("-m", "fanout", "run", "job.toml", cwd=folder)
    written = folder / "answers.jsonl"
    answers = [json.loads(line) for line in written.read_text().splitlines()] if written.exists() else []
    return done.returncode, done.stdout + done.stderr, answers


@pytest.mark.parametrize("field", ["dataframe_records", "instances"])
def test_rows_with_parameters_give_the_model_s_outputs(mlflow: Real, tmp_path: Path, field: str) -> None:
    code, log, answers = run(mlflow.url, tmp_path, f'field = "{field}"\nparams = {{ factor = 2.0 }}')
    assert code == 0, log
    assert [answer["id"] for answer in answers] == [f"r{i}" for i in range(50)]
    assert [answer["sum"] for answer in answers] == [2 * (i + i / 4) for i in range(50)]
    assert [answer["label"] for answer in answers] == [f"TEXT {i}" for i in range(50)]


def test_a_row_that_the_model_refuses_fails_alone(mlflow: Real, tmp_path: Path) -> None:
    code, log, answers = run(mlflow.url, tmp_path, bad=13)
    assert code != 0
    assert "50 rows: 49 ok, 1 failed" in log
    assert "row 13: HTTP 400: Encountered an unexpected error while evaluating the model" in log
    assert [answers[i]["sum"] for i in range(50) if i != 13] == [i + i / 4 for i in range(50) if i != 13]


def test_a_missing_column_stops_the_run_in_the_server_s_words(mlflow: Real, tmp_path: Path) -> None:
    code, log, answers = run(mlflow.url, tmp_path, columns=("a", "b"))
    assert code != 0
    assert "HTTP 400" in log
    assert "text" in log
    assert not answers
