"""``fanout check``, as a process."""

from __future__ import annotations

import json


async def test_a_check_tells_what_was_found_and_writes_nothing(run, write_job, doubler, tmp_path):
    write_job(url=f"{doubler.url}?key=s3cret")
    result = await run("check", "job.toml")
    assert (result.code, result.err) == (0, "")
    assert "input:    10 rows float64 (10,)" in result.out
    assert "key=***, codec json" in result.out
    assert "chunks:   3 of up to 4 rows" in result.out
    assert "probe:    4 of 4 rows answered, 1 requests, median latency" in result.out
    assert "answer:   float64 (4,)" in result.out
    assert not (tmp_path / "out").exists()


async def test_a_check_in_json_tells_why_it_was_stopped(run, write_job, doubler):
    doubler.status = 401
    write_job(url=doubler.url)
    result = await run("check", "job.toml", "--json")
    found = json.loads(result.out)
    assert (result.code, found["exit_code"], found["stop_kind"], found["answer"]) == (3, 3, "refused", [])
    assert result.err.startswith("error: stopped early: ")
