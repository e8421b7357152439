"""Whole jobs whose rows are files: as a folder, and as a column of paths and URLs."""

from __future__ import annotations

import asyncio
import json
import os
from contextlib import suppress

import pytest
from aiohttp import web

from fanout.errors import InputError
from fanout.job import load_job, run_job
from tests.images import Vision, png, write_photos
from tests.jobs import served

OUTPUT = """
outputs.reply = { path = "choices[0].message.content", type = "str" }

[limits]
concurrency = 8

[retry]
max_attempts = 2
initial_backoff = 0.01

[output]
path = "out.jsonl"
"""
CHAT = """
[codec]
request.model = "m"
request.messages = [{ role = "user", content = [
    { type = "text", text = "Which number?" },
    { type = "image_url", image_url = { url = "{{FILE | data_url}}" } },
] }]
"""
RAW = """
[codec]
raw = "{{FILE}}"
"""
FORM = """
[codec]
form.label = "{{name}}"
form.image = { value = "{{FILE}}", filename = "{{name}}" }
"""
FOLDER = '[input]\npath = "photos"\n'
TABLE = '[input]\npath = "photos.csv"\nfiles = "photo"\nid = "name"\n'


def write(tmp_path, url, input_table, codec, more=""):
    column = "file" if input_table == FOLDER else "photo"
    text = f'{input_table}{more}\n[endpoint]\nurl = "{url}/v1"\n{codec.replace("FILE", column)}{OUTPUT}'
    (tmp_path / "job.toml").write_text(text)
    return load_job(tmp_path / "job.toml")


def answers(tmp_path, name="out.jsonl"):
    lines = [json.loads(line) for line in (tmp_path / name).read_text().splitlines()]
    # The output has its name in the template, or none.
    return {line.pop("id"): next(iter(line.values())) for line in lines}


def table(tmp_path, cells):
    rows = [f"r{i},{cell}" for i, cell in enumerate(cells)]
    (tmp_path / "photos.csv").write_text("\n".join(["name,photo", *rows]) + "\n")


@pytest.mark.parametrize("codec", [CHAT, RAW, FORM], ids=["chat", "raw", "form"])
async def test_300_files_of_a_folder_have_the_answers_of_their_own_contents(tmp_path, codec):
    write_photos(tmp_path / "photos", 300)
    vision = Vision()
    async with served(vision.handle) as url:
        summary = await run_job(write(tmp_path, url, FOLDER, codec))
    assert (summary.exit_code, summary.ok) == (0, 300)
    assert answers(tmp_path) == {f"photo-{i}.png": str(i) for i in range(300)}
    assert list(answers(tmp_path))[:3] == ["photo-0.png", "photo-1.png", "photo-2.png"]
    assert vision.requests == 300


async def test_paths_in_a_column_begin_in_the_folder_of_the_job_file(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    write_photos(tmp_path / "photos", 3)
    table(tmp_path, ["photos/photo-2.png", "photos/photo-0.png", tmp_path / "photos" / "photo-1.png"])
    vision = Vision()
    async with served(vision.handle) as url:
        await run_job(write(tmp_path, url, TABLE, CHAT))
    assert answers(tmp_path) == {"r0": "2", "r1": "0", "r2": "1"}


@pytest.mark.parametrize("codec", [CHAT, RAW], ids=["chat", "raw"])
async def test_hostile_cells_send_nothing_and_fail_alone(tmp_path, codec):
    root = tmp_path / "photos"
    write_photos(root, 1)
    (tmp_path / "secret.png").write_bytes(png(9))
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    (root / "up").symlink_to(tmp_path, target_is_directory=True)
    (root / "empty.png").touch()
    (root / "large.png").write_bytes(bytes(2000))
    vision = Vision()

    async def all_requests(request):
        assert request.path == "/v1"
        return await vision.handle(request)

    async with served(all_requests) as url:
        hostile = {
            "/etc/passwd": "outside of input.files_root",
            "/etc/no-such-file": "outside of input.files_root",
            "../secret.png": "outside of input.files_root",
            "../photos/../secret.png": "outside of input.files_root",
            str(tmp_path / "secret.png"): "outside of input.files_root",
            "link.png": "outside of input.files_root",
            "up/secret.png": "outside of input.files_root",
            "up": "outside of input.files_root",
            ".": "Is a directory",
            "missing.png": "No such file",
            "empty.png": "is empty",
            "large.png": "more than input.file_max_bytes = 1,000",
            f"{url}/image.png": "not a public one",
            "http://169.254.169.254/latest/meta-data/": "not a public one",
            "http://2852039166/": "not a public one",
            "http://0xa9fea9fe/": "not a public one",
            "http://[::ffff:169.254.169.254]/": "not a public one",
            "http://[::1]/": "not a public one",
            "http://localhost/": "not a public one",
            "HTTP://metadata.google.internal./": "not a public one",
            "http://user:password@8.8.8.8/": "credentials",
            "http://8.8.8.8\\@127.0.0.1/": "a space or a control character",
            "file:///etc/passwd": "scheme 'file'",
            "ftp://8.8.8.8/x": "scheme 'ftp'",
        }
        table(tmp_path, [*hostile, "photo-0.png"])
        more = 'files_root = "photos"\nfile_max_bytes = 1000\n'
        summary = await run_job(write(tmp_path, url, TABLE, codec, more))
    assert vision.requests == summary.stats.requests == 1
    assert (summary.exit_code, summary.ok) == (1, 1)
    failures = [json.loads(line) for line in (tmp_path / "out.jsonl.failures.jsonl").read_text().splitlines()]
    reasons = {failure["ids"][0]: failure["reason"] for failure in failures}
    assert len(reasons) == len(hostile)
    for i, (cell, words) in enumerate(hostile.items()):
        assert words in reasons[f"r{i}"], cell
    assert "password" not in reasons[f"r{list(hostile).index('http://user:password@8.8.8.8/')}"]


async def test_a_url_is_fetched_from_a_named_host_and_passed_on_from_others(tmp_path):
    vision, fetched = Vision(), []

    async def images(request):
        fetched.append(request.path)
        match request.path:
            case "/moved":
                raise web.HTTPFound("/7.png")
            case "/away":
                raise web.HTTPFound("http://127.0.0.1:9/7.png")
            case "/missing":
                return web.Response(status=404)
            case "/slow":
                response = web.StreamResponse(headers={"Content-Length": "50"})
                await response.prepare(request)
                with suppress(ConnectionError):
                    for _ in range(50):
                        await response.write(b"x")
                        await asyncio.sleep(0.05)
                return response
            case "/large":
                return web.Response(body=bytes(5000))
        return web.Response(body=png(7))

    async with served(images) as there, served(vision.handle) as url:
        paths = ["/7.png?key=secret-123", "/moved", "/away", "/missing?key=secret-123", "/slow", "/large"]
        table(tmp_path, [*(there + path for path in paths), "https://images.example.com/1.png", "gs://bucket/2.png"])
        host = there.removeprefix("http://")
        more = f'fetch_hosts = ["{host}"]\nfile_max_bytes = 1000\nfetch_timeout = 0.3\n'
        summary = await run_job(write(tmp_path, url, TABLE, CHAT, more))
    replies = answers(tmp_path)
    assert (replies["r0"], replies["r1"], replies["r6"], replies["r7"]) == ("7", "7", "-1", "-1")
    assert sorted(vision.passed) == ["gs://bucket/2.png", "https://images.example.com/1.png"]
    assert summary.ok == 4
    text = (tmp_path / "out.jsonl.failures.jsonl").read_text()
    reasons = {line["ids"][0]: line["reason"] for line in map(json.loads, text.splitlines())}
    assert 'add "127.0.0.1:9" to input.fetch_hosts' in reasons["r2"]
    assert f"at {there}/away is redirected, and has a URL of the host '127.0.0.1'" in reasons["r2"]
    assert "HTTP 404" in reasons["r3"]
    assert "secret-123" not in text
    assert "within input.fetch_timeout = 0.3 s" in reasons["r4"]
    assert "larger than input.file_max_bytes = 1,000" in reasons["r5"]


async def test_a_url_that_is_not_fetched_has_no_bytes_for_a_raw_body(tmp_path):
    table(tmp_path, ["https://images.example.com/1.png"])
    async with served(Vision().handle) as url:
        await run_job(write(tmp_path, url, TABLE, RAW))
    assert "add its host to input.fetch_hosts" in (tmp_path / "out.jsonl.failures.jsonl").read_text()


@pytest.mark.parametrize("codec", [CHAT, RAW])
async def test_a_file_whose_name_is_no_text_is_named_before_anything_is_sent(tmp_path, codec):
    write_photos(tmp_path / "photos", 2)
    try:
        (tmp_path / "photos" / os.fsdecode(b"\xff.png")).write_bytes(png(3))
    except OSError:
        pytest.skip("the file system has texts as names")
    vision = Vision()
    async with served(vision.handle) as url:
        with pytest.raises(
            InputError, match=r"the name of the file '\\udcff\.png' in .*photos is not UTF-8: rename it"
        ):
            await run_job(write(tmp_path, url, FOLDER, codec))
    assert vision.requests == 0


async def test_a_run_over_files_is_resumed_and_an_other_file_is_another_input(tmp_path):
    write_photos(tmp_path / "photos", 4)
    vision = Vision()
    async with served(vision.handle) as url:
        job = write(tmp_path, url, FOLDER, RAW)
        await run_job(job)
        await run_job(job)
        assert vision.requests == 4
        (tmp_path / "photos" / "photo-4.png").write_bytes(png(4))
        await run_job(job, carry=True)
    assert vision.requests == 5
    assert answers(tmp_path) == {f"photo-{i}.png": str(i) for i in range(5)}


@pytest.mark.parametrize("codec", [CHAT, RAW, FORM], ids=["chat", "raw", "form"])
async def test_a_mock_answers_rows_of_files(tmp_path, codec):
    write_photos(tmp_path / "photos", 3)
    summary = await run_job(write(tmp_path, "http://127.0.0.1:9", FOLDER, codec), mock=True)
    assert summary.ok == len(set(answers(tmp_path, "out.mock.jsonl").values())) == 3


@pytest.mark.parametrize("form", ["csv", "jsonl"])
async def test_a_table_of_paths_that_has_changed_is_another_input(tmp_path, form):
    write_photos(tmp_path / "photos", 5)
    vision = Vision()

    def write_rows(numbers):
        cells = [f"photos/photo-{i}.png" for i in numbers]
        table(tmp_path, cells)
        lines = [json.dumps({"name": f"r{i}", "photo": cell}) for i, cell in enumerate(cells)]
        (tmp_path / "photos.jsonl").write_text("\n".join(lines) + "\n")

    async with served(vision.handle) as url:
        write_rows([0, 1])
        job = write(tmp_path, url, TABLE.replace("csv", form), RAW)
        await run_job(job)
        write_rows([0, 2, 3])
        await run_job(job)
        assert answers(tmp_path) == {"r0": "0", "r1": "2", "r2": "3"}
        write_rows([0, 2, 4])
        await run_job(job, carry=True)
    assert answers(tmp_path) == {"r0": "0", "r1": "2", "r2": "4"}
    assert vision.requests == 2 + 3 + 1
