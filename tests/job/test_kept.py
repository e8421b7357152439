"""Columns of the input beside the answers, through whole jobs, in every format of input and output."""

from __future__ import annotations

import csv
import json
from datetime import date
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from aiohttp import web
from pyarrow import ipc

from fanout.arrow import arrow_column, as_text
from fanout.errors import ConfigError, InputError
from fanout.io.publication import Publication
from fanout.io.readers.opening import open_source
from fanout.job import load_job, run_job
from tests.jobs import REVIEWS_JOB, served

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

ROWS = [
    {"id": f"r{i}", "text": f"text {i}" if i != 3 else "bad", "stars": i, "code": f"00{i}", "price": i + 0.5}
    for i in range(7)
]


@pytest.fixture
async def server() -> AsyncIterator[Any]:
    """A server that scores texts by their length and refuses `bad` ones; `.texts` are those that it was sent."""
    sent: list[str] = []

    async def score(request: web.Request) -> web.Response:
        texts = (await request.json())["texts"]
        sent.extend(texts)
        if "bad" in texts:
            return web.json_response({"error": "no score for bad"}, status=422)
        return web.json_response({"scores": [len(text) / 10 for text in texts]})

    async with served(score) as url:
        yield type("Server", (), {"url": url, "texts": sent})


def write_input(path: Path, rows: list[dict[str, Any]]) -> None:
    if path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".npz":
        np.savez(path, **{name: np.array([row[name] for row in rows]) for name in rows[0]})
    else:
        table = pa.Table.from_pylist(rows)
        pq.write_table(table, path, row_group_size=3) if path.suffix == ".parquet" else write_arrow(table, path)


def write_arrow(table: pa.Table, path: Path) -> None:
    with ipc.new_file(str(path), table.schema) as writer:
        writer.write_table(table, 3)


def read_output(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".csv":
        with path.open(newline="") as file:
            return [{name: value or None for name, value in row.items()} for row in csv.DictReader(file)]
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    rows: list[dict[str, Any]] = (
        pq.read_table(path) if path.suffix == ".parquet" else ipc.open_file(str(path)).read_all()
    ).to_pylist()
    return rows


async def run(folder: Path, server: Any, *settings: str, **how: Any) -> Any:
    (folder / "job.toml").write_text(REVIEWS_JOB.format(url=server.url))
    return await run_job(load_job(folder / "job.toml", list(settings)), **how)


@pytest.mark.parametrize("output", [".csv", ".jsonl", ".parquet", ".arrow"])
@pytest.mark.parametrize("given", [".csv", ".jsonl", ".parquet", ".arrow", ".npz"])
async def test_kept_columns_stand_beside_the_answers(tmp_path: Path, server: Any, given: str, output: str) -> None:
    write_input(tmp_path / f"reviews{given}", ROWS)
    settings = [f"input.path=reviews{given}", f"output.path=scores{output}", 'output.keep="*"']
    summary = await run(tmp_path, server, *settings)
    assert (summary.ok, summary.exit_code) == (6, 1)
    rows = read_output(tmp_path / f"scores{output}")
    as_cell = str if output == ".csv" else (lambda value: value)
    for i, (row, wanted) in enumerate(zip(rows, ROWS, strict=True)):
        assert [row.pop(name) for name in ROWS[0]] == list(map(as_cell, wanted.values()))
        score, error = row.pop("score"), row.pop("error")
        if i == 3:
            assert score is None
            assert "no score for bad" in error
        else:
            assert (float(score), error) == (0.6, None)
        assert row == {}


async def test_a_corrected_input_sends_only_its_changed_rows_and_keeps_all_columns(tmp_path: Path, server: Any) -> None:
    write_input(tmp_path / "reviews.csv", ROWS)
    await run(tmp_path, server)
    server.texts.clear()
    corrected = [{**row, "text": "good"} if row["text"] == "bad" else row for row in ROWS]
    write_input(tmp_path / "reviews.csv", corrected)
    summary = await run(tmp_path, server, carry=True)
    assert (server.texts, summary.exit_code) == (["good"], 0)
    rows = read_output(tmp_path / "scores.csv")
    assert [(row["id"], row["stars"], row["score"]) for row in rows] == [
        (f"r{i}", str(i), "0.4" if i == 3 else "0.6") for i in range(7)
    ]
    assert {row["error"] for row in rows} == {None}


async def test_failed_rows_are_sent_again_beside_kept_columns(tmp_path: Path, server: Any) -> None:
    write_input(tmp_path / "reviews.jsonl", ROWS)
    settings = ["input.path=reviews.jsonl", "output.path=scores.jsonl"]
    await run(tmp_path, server, *settings)
    first = (tmp_path / "scores.jsonl").read_bytes()
    server.texts.clear()
    await run(tmp_path, server, *settings, only_failed=True)
    assert set(server.texts) == {"bad"}
    assert (tmp_path / "scores.jsonl").read_bytes() == first


async def test_other_columns_of_a_complete_output_are_written_without_a_request(tmp_path: Path, server: Any) -> None:
    """Also rows that failed stay as they are, with their ids."""
    write_input(tmp_path / "reviews.csv", ROWS)
    settings = ["input.id=code"]
    await run(tmp_path, server, *settings, 'output.keep=["stars"]')
    server.texts.clear()
    settings.append("output.csv_safe=true")
    for keep, rename in ((["text", "price"], "score"), (["stars"], "rating")):
        changes = [*settings, f"output.keep={json.dumps(keep)}", f"output.rename.value={rename}"]
        for again in (False, True):
            summary = await run(tmp_path, server, *changes)
            assert (server.texts, summary.rewritten, summary.resumable, summary.exit_code) == ([], not again, False, 1)
        rows = read_output(tmp_path / "scores.csv")
        assert [list(row) for row in rows] == [["id", *keep, rename, "error"]] * 7
        assert [row["id"] for row in rows] == [row["code"] for row in ROWS]
        assert [row[keep[0]] for row in rows] == [str(row[keep[0]]) for row in ROWS]
        assert [row[rename] for row in rows] == ["0.6", "0.6", "0.6", None, "0.6", "0.6", "0.6"]
        assert "no score for bad" in rows[3]["error"]
    summary = await run(tmp_path, server, *changes, only_failed=True)
    assert (set(server.texts), summary.rewritten) == ({"bad"}, False)
    assert [list(row) for row in read_output(tmp_path / "scores.csv")] == [["id", "stars", "rating", "error"]] * 7


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet", ".arrow"])
async def test_every_table_can_get_other_columns_later(tmp_path: Path, server: Any, suffix: str) -> None:
    write_input(tmp_path / "reviews.parquet", ROWS)
    settings = ["input.path=reviews.parquet", f"output.path=scores{suffix}"]
    await run(tmp_path, server, *settings)
    server.texts.clear()
    wanted = [{**row, "score": None if row["text"] == "bad" else 0.6} for row in ROWS]
    summary = await run(tmp_path, server, *settings, 'output.keep="*"')
    rows = read_output(tmp_path / f"scores{suffix}")
    assert (server.texts, summary.rewritten) == ([], True)
    assert [{name: value for name, value in row.items() if name != "error"} for row in rows] == wanted


async def test_columns_that_a_complete_output_cannot_get_are_one_error(tmp_path: Path, server: Any) -> None:
    write_input(tmp_path / "reviews.csv", ROWS)
    await run(tmp_path, server, "input.id=code")
    before = (tmp_path / "scores.csv").read_bytes()
    with pytest.raises(ConfigError, match=r'output\.keep: .*a column of the input called id: keep "id" too'):
        await run(tmp_path, server, "input.id=code", 'output.keep=["stars"]')
    with pytest.raises(ConfigError, match=r'output\.rename: there is no output "valu" to rename'):
        await run(tmp_path, server, "input.id=code", 'output.rename={ valu = "x" }')
    assert (tmp_path / "scores.csv").read_bytes() == before


async def test_a_kill_between_the_record_and_the_renames_of_other_columns_is_made_up_for(
    tmp_path: Path, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_input(tmp_path / "reviews.csv", ROWS)
    await run(tmp_path, server)
    with monkeypatch.context() as patch:
        patch.setattr(Publication, "carry_out", lambda _: (_ for _ in ()).throw(OSError("killed")))
        with pytest.raises(ConfigError, match="killed"):
            await run(tmp_path, server, 'output.keep=["price"]')
    server.texts.clear()
    assert not (await run(tmp_path, server, 'output.keep=["price"]')).resumable
    assert [list(row) for row in read_output(tmp_path / "scores.csv")] == [["price", "score", "error"]] * 7
    assert server.texts == []


def test_the_types_of_csv_columns_are_found_in_one_pass_as_long_as_the_file_is_the_same(tmp_path: Path) -> None:
    path = tmp_path / "reviews.csv"
    write_input(path, ROWS)
    kept = open_source(path, "text", keep=["stars", "price", "code"]).kept
    assert kept is not None
    assert {name: str(kind) for name, kind in kept.arrow_types().items()} == {
        "stars": "int64", "price": "double", "code": "string"
    }  # fmt: skip
    assert kept.reader().take(2)["stars"] == [[0, 1]]
    write_input(path, [{**row, "stars": "five"} for row in ROWS])
    assert kept.reader().take(2)["stars"] == [["five", "five"]]


async def test_rows_of_a_slice_have_their_own_columns(tmp_path: Path, server: Any) -> None:
    write_input(tmp_path / "reviews.parquet", ROWS)
    settings = ["input.path=reviews.parquet", "output.path=scores.parquet"]
    await run(tmp_path, server, *settings, rows=slice(4, 6))
    assert [row["id"] for row in read_output(tmp_path / "scores.parquet")] == ["r4", "r5"]


async def test_values_without_a_json_form_keep_their_arrow_type(tmp_path: Path, server: Any) -> None:
    table = pa.table(
        {"text": ["a", "b"], "day": [date(2026, 1, 2), None], "kind": pa.array(["x", "y"]).dictionary_encode()}
    )
    pq.write_table(table, tmp_path / "reviews.parquet")
    for output in ("parquet", "jsonl", "csv"):
        settings = ["input.path=reviews.parquet", f"output.path=scores.{output}", 'output.keep=["day", "kind"]']
        await run(tmp_path, server, *settings)
    assert pq.read_table(tmp_path / "scores.parquet")["day"].to_pylist() == [date(2026, 1, 2), None]
    assert [row["day"] for row in read_output(tmp_path / "scores.jsonl")] == ["2026-01-02", None]
    assert (tmp_path / "scores.csv").read_text() == "day,kind,score,error\n2026-01-02,x,0.1,\n,y,0.1,\n"


async def test_mixed_values_become_one_type_that_holds_them(tmp_path: Path, server: Any) -> None:
    rows = [
        {"text": "a", "n": 1, "m": 1, "big": 2**53 + 1, "none": None},
        {"text": "b", "n": 2.5, "m": "x", "big": 0.5, "none": None},
    ]
    write_input(tmp_path / "reviews.jsonl", rows)
    settings = ["input.path=reviews.jsonl", "output.path=scores.parquet", 'output.keep=["n", "m", "big", "none"]']
    await run(tmp_path, server, *settings)
    table = pq.read_table(tmp_path / "scores.parquet")
    assert table["n"].to_pylist() == [1.0, 2.5]
    assert table["m"].to_pylist() == ["1", "x"]
    assert table["big"].to_pylist() in ([str(2**53 + 1), "0.5"], [2**53 + 1, 0.5])
    assert table["none"].to_pylist() == [None, None]


@pytest.mark.parametrize(
    "values", [(2**60 + 1, 3, 0.5), (0.5, 3, 2**60 + 1), (-1, 3, 2**64 - 1), ({"x": 2**60 + 1}, {"x": 0.5})]
)
@pytest.mark.parametrize("given", [".csv", ".jsonl"])
def test_an_integer_stays_exact_whatever_kinds_the_blocks_of_its_column_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str, values: tuple[Any, ...]
) -> None:
    monkeypatch.setattr("fanout.io.readers.base.BLOCK_BYTES", 2)
    write_input(path := tmp_path / f"reviews{given}", [{"n": value, "text": "x"} for value in values])
    kept = open_source(path, "text", keep=["n"]).kept
    assert kept is not None
    kind = kept.arrow_types()["n"]
    column = arrow_column(kept.reader().take(len(values))["n"], kind)
    assert (str(kind), column.to_pylist()) == (
        "string",
        [as_text(value) if given == ".jsonl" else str(value) for value in values],
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (['output.keep=["strs"]'], r'output\.keep: .*no column "strs"; did you mean "stars"'),
        (["output.keep=[]"], r"output\.keep: keep is an empty list"),
        (["output.path=y.npy", "output.rename={}"], r"output\.keep: y\.npy holds answers alone.*\.parquet"),
        (["input={path='-', format='csv', column='text'}"], r"output\.keep: stdin can be read only once"),
        (["input={path='lines.txt'}"], r"output\.keep: .*lines\.txt has no columns"),
        (["input={path='x.npy'}"], r"output\.keep: x\.npy is one array without columns"),
    ],
)
async def test_columns_that_cannot_be_kept_are_an_error_before_anything_is_sent(
    tmp_path: Path, server: Any, settings: list[str], message: str
) -> None:
    write_input(tmp_path / "reviews.csv", ROWS)
    (tmp_path / "lines.txt").write_text("a\nb\n")
    np.save(tmp_path / "x.npy", np.arange(3))
    with pytest.raises((ConfigError, InputError), match=message):
        await run(tmp_path, server, *settings)
    assert server.texts == []


def test_files_whose_kept_columns_differ_in_type_are_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["a"], "n": [1]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"text": ["b"], "n": ["x"]}), tmp_path / "b.parquet")
    with pytest.raises(InputError, match=r'b\.parquet holds "n": string, but .*a\.parquet holds "n": int64'):
        open_source(tmp_path / "*.parquet", "text", keep=["n"])


def test_a_file_that_changes_while_its_columns_are_read_is_an_error(tmp_path: Path) -> None:
    write_input(tmp_path / "reviews.csv", ROWS)
    kept = open_source(tmp_path / "reviews.csv", "text", keep=["id"]).kept
    assert kept is not None
    reader = kept.reader()
    reader.take(7)
    write_input(tmp_path / "reviews.csv", ROWS[::-1])
    with pytest.raises(InputError, match="was changed while its columns were read"):
        reader.end()
    with pytest.raises(InputError, match="fewer rows than were sent"):
        kept.reader().take(8)
