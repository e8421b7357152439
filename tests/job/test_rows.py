"""Whole jobs whose rows are made of several columns, and whose ids are."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
from aiohttp import web
from pyarrow import parquet

from fanout.job import job_status, load_job, run_job
from tests.jobs import served

if TYPE_CHECKING:
    from pathlib import Path

FEATURES = [f"f{i}" for i in range(1, 31)]
JOB = """
[input]
path = "in.csv"
columns = ["f*"]
as = "vector"
id = ["order", "line"]

[endpoint]
url = "{url}/predict"

[codec]
name = "json"

[chunks]
rows = 3

[output]
path = "y.jsonl"
"""


def write(folder: Path, url: str, bad: int | None = None) -> Path:
    lines = [",".join(["order", *FEATURES, "line", "note"])]
    for i in range(7):
        numbers = [-1 if i == bad else i, *range(1, 30)]
        lines.append(",".join(map(str, [f"o{i}", *numbers, i, "x"])))
    (folder / "in.csv").write_text("\n".join(lines) + "\n")
    (folder / "job.toml").write_text(JOB.replace("{url}", url))
    return folder / "job.toml"


async def answer(request: web.Request) -> web.Response:
    rows = (await request.json())["instances"]
    if any(len(row) != 30 for row in rows) or any(row[0] < 0 for row in rows):
        return web.Response(status=422, text="thirty numbers, please")
    return web.json_response({"predictions": [sum(row) for row in rows]})


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
async def test_thirty_columns_are_one_row_of_thirty_numbers_and_its_id_has_two_parts(tmp_path, suffix):
    async with served(answer) as url:
        summary = await run_job(load_job(write(tmp_path, url), [f"output.path=y.{suffix}"]))
    assert (summary.ok, summary.exit_code) == (7, 0)
    expected = [({"order": f"o{i}", "line": i}, i + sum(range(1, 30))) for i in range(7)]
    if suffix == "jsonl":
        lines = [json.loads(line) for line in (tmp_path / "y.jsonl").read_text().splitlines()]
        assert lines == [{"id": label, "value": value, "error": None} for label, value in expected]
    else:
        table = parquet.read_table(tmp_path / "y.parquet").to_pylist()
        assert [(json.loads(row["id"]), row["value"]) for row in table] == expected


async def test_a_failed_row_is_reported_with_both_parts_of_its_id(tmp_path):
    async with served(answer) as url:
        job = load_job(write(tmp_path, url, bad=4))
        summary = await run_job(job)
        assert summary.first_failures[0].ids == ({"order": "o4", "line": 4},)
        (failure,) = map(json.loads, (tmp_path / "y.jsonl.failures.jsonl").read_text().splitlines())
        assert failure["ids"] == [{"order": "o4", "line": 4}]
        assert (job_status(job).failed, job_status(job).current) == (1, True)
        # The journal brings the failure back in the same form.
        assert (await run_job(job)).first_failures[0].ids == summary.first_failures[0].ids


async def test_rows_are_carried_by_both_parts_of_their_id(tmp_path):
    async with served(answer) as url:
        file = write(tmp_path, url)
        await run_job(load_job(file))
        header, *lines = (tmp_path / "in.csv").read_text().splitlines()
        lines[0] = lines[0].replace("o0,", "other,")
        (tmp_path / "in.csv").write_text("\n".join([header, *reversed(lines)]) + "\n")
        summary = await run_job(load_job(file), carry=True)
    assert (summary.ok, summary.stats.requests) == (7, 1)
    lines = (tmp_path / "y.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"]["line"] for line in lines] == list(reversed(range(7)))


@pytest.mark.usefixtures("shared_local")
async def test_vectors_are_tensors_for_a_codec_of_tensors(tmp_path):
    file = write(tmp_path, "local://echo")
    settings = ["endpoint.url=local://echo", "codec.name=oip", "output.path=y.npy", "input.id=order"]
    summary = await run_job(load_job(file, settings))
    assert summary.exit_code == 0
    assert np.load(tmp_path / "y.npy").shape == (7, 30)


async def test_a_renamed_column_is_the_field_of_the_request(tmp_path):
    bodies = []

    async def keep(request: web.Request) -> web.Response:
        rows = (await request.json())["instances"]
        bodies.extend(rows)
        return web.json_response({"predictions": [1.0] * len(rows)})

    async with served(keep) as url:
        file = write(tmp_path, url)
        file.write_text(file.read_text().replace('as = "vector"\n', 'rename = { f1 = "age" }\n').replace("f*", "f[12]"))
        await run_job(load_job(file))
    assert bodies[:2] == [{"age": 0, "f2": 1}, {"age": 1, "f2": 1}]


@pytest.mark.parametrize("rename", ["", 'rename = { f2 = "second" }\n'])
async def test_the_columns_that_a_template_names_are_read_without_naming_them_twice(tmp_path, rename):
    bodies = []

    async def keep(request: web.Request) -> web.Response:
        bodies.append(await request.json())
        return web.json_response({"score": 0.5})

    second = "second" if rename else "f2"
    template = f'name = "json"\nrequest = {{ age = "{{{{f1}}}}", more = ["{{{{{second}}}}}"] }}\nanswers = "[score]"'
    async with served(keep) as url:
        file = write(tmp_path, url)
        text = file.read_text().replace('columns = ["f*"]\nas = "vector"\n', rename).replace('name = "json"', template)
        file.write_text(text)
        await run_job(load_job(file, ["limits.concurrency=1"]))
    assert bodies == [{"age": i, "more": [1]} for i in range(7)]
