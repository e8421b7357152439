"""A job whose input has bad rows, as a new user meets it: listed, corrected, and sent again alone."""

from __future__ import annotations

import asyncio
import csv
import json
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from aiohttp import web

from fanout.cli import results as command_module
from fanout.job.failures import FailureReport
from fanout.report import group_failures
from fanout.results import Failure
from fanout.testing import Background
from tests.jobs import REVIEWS_JOB, served

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

N_ROWS = 5000
BAD = (17, 501, 4032)


class Scorer:
    """Scores a text by its length and refuses empty ones; `texts` are those that it was sent."""

    def __init__(self) -> None:
        self.url = ""
        self.texts: list[str] = []

    async def score(self, request: web.Request) -> web.Response:
        texts = (await request.json())["texts"]
        self.texts += texts
        await asyncio.sleep(0)
        if "" in texts:
            return web.json_response({"error": "a text is empty"}, status=422)
        return web.json_response({"scores": [len(text) / 10 for text in texts]})


@asynccontextmanager
async def scoring() -> AsyncIterator[Scorer]:
    scorer = Scorer()
    async with served(scorer.score) as url:
        scorer.url = url
        yield scorer


@pytest.fixture
def scorer() -> Any:
    with Background(scoring()) as scorer:
        yield scorer


def reviews(n_rows: int = N_ROWS, bad: tuple[int, ...] = BAD, other: str = "") -> list[dict[str, str]]:
    return [
        {"id": f"r{i}", "text": other if i in bad else f"Review {i}, of a book", "stars": str(i % 5 + 1)}
        for i in range(n_rows)
    ]


def write_reviews(path: Path, rows: list[dict[str, str]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def read_scores(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        return [{name: str(value or "") for name, value in row.items()} for row in pq.read_table(path).to_pylist()]
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def job(tmp_path: Path, scorer: Scorer) -> Scorer:
    """A job of 60 reviews, of which 3 fail, after its run."""
    write_reviews(tmp_path / "reviews.csv", reviews(60, (3, 17, 41)))
    (tmp_path / "job.toml").write_text(REVIEWS_JOB.format(url=scorer.url).replace("rows = 2\n", "rows = 20\n"))
    return scorer


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_bad_rows_are_corrected_in_the_input_and_sent_alone(
    tmp_path: Path, scorer: Scorer, command: Any, suffix: str
) -> None:
    write_reviews(tmp_path / "reviews.csv", reviews())
    job = REVIEWS_JOB.format(url=scorer.url).replace("rows = 2\n", "rows = 250\n")
    (tmp_path / "job.toml").write_text(job.replace("scores.csv", f"scores{suffix}"))
    assert command("run", "job.toml").code == 1
    listed = command("failures", "job.toml", "--to", "failed.csv")
    assert listed.code == 0
    assert "3 of 5,000 rows failed\n3 rows: HTTP 422: a text is empty" in listed.out
    assert "rows 17, 501, 4032\n" in listed.out
    assert "next:     correct these rows in reviews.csv if they are wrong, then: fanout run job.toml --only-failed" in (
        listed.out
    )
    assert [(row["row"], row["id"], row["stars"]) for row in read_scores(tmp_path / "failed.csv")] == [
        (str(i), f"r{i}", str(i % 5 + 1)) for i in BAD
    ]
    write_reviews(tmp_path / "reviews.csv", reviews(other="Corrected"))
    scorer.texts.clear()
    summary = json.loads(command("run", "job.toml", "--only-failed", "--json").out)
    assert (summary["exit_code"], summary["ok"], summary["earlier"]) == (0, N_ROWS, N_ROWS - 3)
    assert scorer.texts == ["Corrected"] * 3
    wanted = [
        {"id": row["id"], "stars": row["stars"], "score": str(len(row["text"]) / 10), "error": ""}
        for row in reviews(other="Corrected")
    ]
    assert read_scores(tmp_path / f"scores{suffix}") == wanted
    scorer.texts.clear()
    assert command("run", "job.toml").code == 0
    assert scorer.texts == []


def test_a_changed_row_that_had_an_answer_is_named_and_nothing_is_sent(
    tmp_path: Path, job: Scorer, command: Any
) -> None:
    command("run", "job.toml")
    first = (tmp_path / "scores.csv").read_bytes()
    job.texts.clear()
    rows = reviews(60, (3, 17, 41, 7), "Corrected")
    for other, message in (
        (rows, "of the 57 rows that are answered, these differ: 7)"),
        (rows[:-1], "these differ: 7, 59)"),
        (reviews(61, (3,), "Corrected"), "it has more than the 60 rows that were sent"),
    ):
        write_reviews(tmp_path / "reviews.csv", other)
        result = command("run", "job.toml", "--only-failed")
        assert (result.code, message in result.err) == (2, True)
        assert "--carry" in result.err
    assert (job.texts, (tmp_path / "scores.csv").read_bytes()) == ([], first)


def test_a_row_that_is_still_bad_can_be_corrected_again(tmp_path: Path, job: Scorer, command: Any) -> None:
    command("run", "job.toml")
    rows = reviews(60, (3, 41), "Corrected")
    rows[17]["text"] = ""
    write_reviews(tmp_path / "reviews.csv", rows)
    assert command("run", "job.toml", "--only-failed").code == 1
    assert json.loads(command("status", "job.toml", "--json").out)["failed"] == 1
    rows[17]["text"] = "Good"
    write_reviews(tmp_path / "reviews.csv", rows)
    job.texts.clear()
    assert command("run", "job.toml", "--only-failed").code == 0
    assert job.texts == ["Good"]
    assert [row["score"] for row in read_scores(tmp_path / "scores.csv")] == [
        str(len(row["text"]) / 10) for row in rows
    ]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_the_table_of_failed_rows_has_the_columns_of_the_input(
    tmp_path: Path, job: Scorer, command: Any, suffix: str
) -> None:
    rows = [{**row, "stars": i % 5, "tags": ["a", "b"]} for i, row in enumerate(reviews(60, (3, 17, 41)))]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "reviews.parquet")
    settings = ["--set", "input.path=reviews.parquet", "--set", "output.path=scores.jsonl"]
    command("run", "job.toml", *settings)
    result = command("failures", "job.toml", *settings, "--to", f"bad{suffix}", "--json")
    document = json.loads(result.out)
    assert (document["failed"], document["rows"], document["file"]) == (3, 60, f"bad{suffix}")
    assert document["groups"][0]["examples"] == ["3", "17", "41"]
    path = tmp_path / f"bad{suffix}"
    assert path.stat().st_mode & 0o077 == 0
    if suffix == ".csv":
        assert path.read_text().splitlines()[:2] == [
            "row,id,text,stars,tags,error",
            f'3,r3,,3,"[""a"",""b""]",{document["groups"][0]["reason"]}',
        ]
        return
    table = (
        pq.read_table(path).to_pylist() if suffix == ".parquet" else [*map(json.loads, path.read_bytes().splitlines())]
    )
    assert table == [
        {"row": i, **rows[i], "error": document["groups"][0]["reason"]} for i in (3, 17, 41)
    ]  # in order, with their types


def test_failures_are_selected_by_reason_and_refusals_name_the_remedy(
    tmp_path: Path, job: Scorer, command: Any
) -> None:
    assert "no row is done yet" in command("failures", "job.toml").err
    command("run", "job.toml")
    assert command("failures", "job.toml", "--reason", "EMPTY").code == 0
    result = command("failures", "job.toml", "--reason", "too long")
    assert (result.code, "the reasons are: HTTP 422: a text is empty" in result.err) == (2, True)
    (tmp_path / "mine.csv").write_text("corrected")
    assert "error: job.toml: --to: mine.csv exists already" in command("failures", "job.toml", "--to", "mine.csv").err
    assert "the suffix is the format" in command("failures", "job.toml", "--to", "failed.xlsx").err
    write_reviews(tmp_path / "reviews.csv", reviews(60, ()))
    result = command("failures", "job.toml", "--to", "failed.csv")
    assert (result.code, "has changed since the run" in result.err) == (2, True)
    assert not (tmp_path / "failed.csv").exists()


@pytest.mark.parametrize(
    ("failures", "listed"),
    [
        ([(0, 5, "abcde")], '  rows 0:5; ids "a", "b", "c", ...'),
        ([(3, 4, ""), (7, 9, ""), (11, 31, ""), (40, 41, "")], "  rows 3, 7:9, 11:31, ..."),
        ([(3, 6, ""), (8, 9, ""), (10, 11, "")], "  rows 3:6, 8, 10\n"),
    ],
)
def test_rows_that_are_not_listed_are_shown_as_dots(
    failures: list[tuple[int, int, str]], listed: str, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = Failure(start=0, stop=0, reason="HTTP 400", status=400, attempts=1, endpoint="http://host")
    all_failed = [replace(one, start=start, stop=stop, ids=tuple(ids)) for start, stop, ids in failures]
    n_rows = sum(failure.n_rows for failure in all_failed)
    groups = tuple(group_failures(all_failed))
    report = FailureReport(rows=50, failed=n_rows, selected=n_rows, complete=True, groups=groups)
    monkeypatch.setattr(command_module, "load_outline", lambda *_: None)
    monkeypatch.setattr(command_module, "job_failures", lambda *_, **__: report)
    command_module.failures_command("job.toml", [], reason="", to=None, as_json=False)
    assert listed in capsys.readouterr().out
