"""Whole jobs against an asynchronous API: one POST a row, and GETs until its job has ended."""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from contextlib import asynccontextmanager
from urllib.parse import quote

import pytest
from aiohttp import web

from fanout.errors import ConfigError
from fanout.job import load_job, run_job
from tests.jobs import served
from tests.predictions import JOB, OF_SEVERAL_ROWS, Predictions, table


def write(tmp_path, url, n, settings=()):
    (tmp_path / "in.csv").write_text(table(n))
    (tmp_path / "job.toml").write_text(JOB.replace("{url}", url).replace("{every}", "0.01"))
    return load_job(tmp_path / "job.toml", settings)


def lines(tmp_path):
    return {
        line["id"]: line.get("double") for line in map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())
    }


def reasons(tmp_path):
    text = (tmp_path / "out.jsonl.failures.jsonl").read_text()
    return {line["ids"][0]: line["reason"] for line in map(json.loads, text.splitlines())}


@asynccontextmanager
async def predicting(tmp_path, n, polls=2, settings=()):
    predictions = Predictions(polls)
    async with served(predictions.handle) as url:
        yield predictions, write(tmp_path, url, n, settings)


async def test_each_row_has_the_result_of_its_own_job_and_one_post(tmp_path):
    async with predicting(tmp_path, 40) as (predictions, job):
        summary = await run_job(job)
    assert summary.exit_code == 0
    assert lines(tmp_path) == {f"r{i}": 2.0 * i for i in range(40)}
    assert Counter(predictions.created) == Counter(range(40))
    assert set(predictions.gets.values()) == {3}
    assert summary.stats.requests == 40 * 4
    # A waiting job holds no slot: more are open than requests may be in flight, and none is beyond the limit.
    assert predictions.most_in_flight <= 4 < predictions.most_open


async def test_the_jobs_that_wait_at_once_are_bounded(tmp_path):
    async with predicting(tmp_path, 40, polls=5, settings=["codec.poll.most=3"]) as (predictions, job):
        await run_job(job)
    assert predictions.most_open <= 4 + 3 + 1


async def test_trouble_with_the_gets_repeats_no_post(tmp_path):
    troubles = {1: 503, 2: 404, 3: 404, 5: 429}

    def trouble(n):
        status = troubles.get(n)
        return None if status is None else web.Response(status=status, headers={"Retry-After": "0"})

    async with predicting(tmp_path, 5, polls=5) as (predictions, job):
        predictions.trouble = trouble
        summary = await run_job(job)
    assert (summary.exit_code, summary.ok) == (0, 5)
    assert sorted(predictions.created) == [0, 1, 2, 3, 4]


async def test_a_job_that_is_gone_fails_its_row_without_another_post(tmp_path):
    async with predicting(tmp_path, 2) as (predictions, job):
        predictions.trouble = lambda _: web.Response(status=404, text="gone")
        summary = await run_job(job)
    assert summary.ok == 0
    assert len(predictions.created) == 2
    assert all("the job is lost: HTTP 404" in reason for reason in reasons(tmp_path).values())


async def test_rows_whose_job_is_gone_get_another_one_on_request(tmp_path):
    async with predicting(tmp_path, 3) as (predictions, job):
        predictions.trouble = lambda _: web.Response(status=410)
        await run_job(job)
        predictions.trouble = lambda _: None
        summary = await run_job(job, only_failed=True)
    assert (summary.exit_code, len(predictions.created)) == (0, 6)
    assert lines(tmp_path) == {"r0": 0.0, "r1": 2.0, "r2": 4.0}


async def test_a_mock_answers_at_once(tmp_path):
    summary = await run_job(write(tmp_path, "http://127.0.0.1:9", 3, ["mock.shape=[]"]), mock=True)
    assert (summary.exit_code, summary.ok) == (0, 3)


async def test_a_job_that_takes_too_long_fails_its_row_without_another_post(tmp_path):
    async with predicting(tmp_path, 2, polls=10**6, settings=["codec.poll.timeout=0.1"]) as (predictions, job):
        await run_job(job)
    assert len(predictions.created) == 2
    assert all("no result within codec.poll.timeout = 0.1 s" in reason for reason in reasons(tmp_path).values())
    assert all('the last state: {"id": "p' in reason for reason in reasons(tmp_path).values())


async def test_a_run_stops_before_it_pays_for_more_jobs_whose_end_is_not_recognized(tmp_path):
    settings = ["codec.poll.until=\"status == 'done'\"", "codec.poll.timeout=0.1", "codec.poll.most=4"]
    async with predicting(tmp_path, 200, polls=0, settings=settings) as (predictions, job):
        summary = await run_job(job)
    assert summary.exit_code == 3
    assert "none of 20 jobs has ended: correct codec.poll.until" in summary.stop.reason
    assert '"status": "succeeded"' in summary.stop.reason
    assert len(predictions.created) <= 20 + 4 + 4 + 1


async def test_a_job_that_fails_fails_its_row_with_the_words_of_the_server(tmp_path):
    async with predicting(tmp_path, 4) as (predictions, job):
        predictions.fails = lambda number: number == 2
        summary = await run_job(job)
    assert (summary.ok, len(predictions.created)) == (3, 4)
    assert "unlucky" in reasons(tmp_path)["r2"]


async def test_a_foreign_origin_stops_the_run_unless_it_is_named_and_gets_no_credentials(tmp_path):
    predictions = Predictions()
    async with served(predictions.handle) as there:
        predictions.get_url = lambda _, name: f"{there}/files/{name}"
        async with served(predictions.handle) as url:
            summary = await run_job(write(tmp_path, url, 3))
            assert summary.exit_code == 3
            assert "codec.poll.origins" in summary.stop.reason
            assert predictions.credentials == []
            named = write(tmp_path, url, 3, [f'codec.poll.origins=["{there}"]'])
            summary = await run_job(named, fresh=True)
    assert (summary.exit_code, summary.ok) == (0, 3)
    assert set(predictions.credentials) == {(there.removeprefix("http://"), None)}


async def test_the_preset_of_replicate_polls_until_each_prediction_has_ended(tmp_path):
    predictions = Predictions(polls=2)
    predictions.fails = lambda number: number == 3
    (tmp_path / "in.csv").write_text(table(6))
    async with served(predictions.handle) as url:
        head, tail = JOB.split("[codec]\n")[0], JOB[JOB.index("[limits]") :]
        codec = 'preset = "replicate"\nversion = "v"\ninput = { n = "{{n}}" }\npoll.every = 0.01\n'
        text = f"{head}[codec]\n{codec}\n{tail}".replace("{url}/v1/predictions", url)
        (tmp_path / "job.toml").write_text(text)
        summary = await run_job(load_job(tmp_path / "job.toml"))
    assert (summary.exit_code, summary.ok, sorted(predictions.created)) == (1, 5, list(range(6)))
    assert "unlucky" in reasons(tmp_path)["r3"]
    rows = map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())
    outputs = {line["id"]: line.get("output") for line in rows}
    assert outputs == {"r0": "0", "r1": "2", "r2": "4", "r3": None, "r4": "8", "r5": "10"}
    assert set(predictions.gets.values()) == {3}


async def test_the_own_origin_gets_credentials(tmp_path):
    async with predicting(tmp_path, 1) as (predictions, job):
        await run_job(job)
    assert {value for _, value in predictions.credentials} == {"Bearer secret-token"}


async def test_a_redirect_of_a_get_stops_the_run(tmp_path):
    async with predicting(tmp_path, 1) as (predictions, job):
        predictions.trouble = lambda _: web.Response(status=302, headers={"Location": "http://127.0.0.1:9/"})
        summary = await run_job(job)
    assert summary.stop.kind == "redirect"
    assert len(predictions.created) == 1


async def test_an_answer_without_a_url_stops_the_run_before_more_jobs_are_lost(tmp_path):
    async with predicting(tmp_path, 50, settings=['codec.poll.url="links.self"']) as (predictions, job):
        summary = await run_job(job)
    assert summary.exit_code == 3
    assert "codec.poll.url = 'links.self'" in summary.stop.reason
    assert len(predictions.created) <= 4


async def test_a_url_in_a_header_and_a_result_at_another_url(tmp_path):
    gets: Counter[tuple[str, str]] = Counter()

    async def handle(request):
        gets[request.method, request.path] += 1
        if request.method == "POST":
            return web.Response(status=202, headers={"Operation-Location": "/operations/1?api-version=2"})
        if request.path == "/operations/1":
            assert request.query_string == "api-version=2"
            ended = gets["GET", "/operations/1"] > 2
            return web.json_response({"status": "succeeded" if ended else "running", "output": "/results/1"})
        return web.json_response(7.0)

    async with served(handle) as url:
        summary = await run_job(write(tmp_path, url, 1, ['codec.poll.url="header:Operation-Location"']))
    assert summary.ok == 1
    assert lines(tmp_path) == {"r0": 7.0}
    assert gets == {("POST", "/v1/predictions"): 1, ("GET", "/operations/1"): 3, ("GET", "/results/1"): 1}


@pytest.mark.parametrize("output", [[7.0, 8.0], "/results/1"], ids=["inline", "at a URL"])
async def test_the_usage_of_a_job_is_in_its_state_or_in_its_result(tmp_path, output):
    async def handle(request):
        if request.method == "POST":
            return web.json_response({"status": "starting", "urls": {"get": "/jobs/1"}}, status=201)
        if request.path == "/results/1":
            return web.json_response([7.0, 8.0])
        return web.json_response({"status": "succeeded", "output": output, "metrics": {"read": 20, "written": 5}})

    settings = [
        'codec.outputs.double.path="[0]"',
        "codec.usage={ input_tokens = 'metrics.read', output_tokens = 'metrics.written', total_tokens = '[1]' }",
        "cost.input_per_million=1e6",
        "cost.output_per_million=1e6",
        "output.keep_usage=true",
    ]
    async with served(handle) as url:
        summary = await run_job(write(tmp_path, url, 3, settings))
    assert (summary.ok, summary.stats.requests - 6) == (3, 3 * (output == "/results/1"))
    assert summary.stats.usage == {"input_tokens": 60, "output_tokens": 15, "total_tokens": 24}
    assert (summary.stats.cost, summary.stats.cost_estimated) == (75.0, 0.0)
    line = json.loads((tmp_path / "out.jsonl").read_text().splitlines()[0])
    assert (line["usage.input_tokens"], line["usage.output_tokens"]) == (20.0, 5.0)


@pytest.mark.parametrize("is_done_at_once", [False, True])
async def test_a_run_that_stops_before_the_get_of_a_result_sends_no_post_again(tmp_path, is_done_at_once):
    requests: Counter[tuple[str, str]] = Counter()
    may_answer = False

    async def handle(request):
        requests[request.method, request.path] += 1
        if request.method == "POST" and not is_done_at_once:
            return web.json_response({"status": "starting", "urls": {"get": "/states/1"}}, status=201)
        if request.path == "/results/1":
            return web.json_response(7.0) if may_answer else web.Response(status=503)
        return web.json_response({"status": "succeeded", "output": "/results/1", "urls": {"get": "/states/1"}})

    async with served(handle) as url:
        job = write(tmp_path, url, 1, ["timeouts.run=0.3"])
        assert (await run_job(job)).exit_code == 3
        assert requests["GET", "/results/1"] >= 1
        may_answer = True
        assert (await run_job(load_job(job.file))).exit_code == 0
    assert lines(tmp_path) == {"r0": 7.0}
    assert requests["POST", "/v1/predictions"] == 1


async def test_after_a_split_the_jobs_of_the_parts_are_awaited(tmp_path):
    posts: list[list[float]] = []
    may_end = False

    async def handle(request):
        if request.method == "POST":
            posts.append((await request.json())["input"]["n"])
            # The server takes no more than two rows.
            if len(posts[-1]) > 2:
                return web.json_response({"detail": "too many"}, status=413)
            return web.json_response({"status": "starting", "urls": {"get": f"/{len(posts) - 1}"}}, status=201)
        numbers = posts[int(request.path[1:])]
        if not may_end and 3 in numbers:
            return web.json_response({"status": "processing"})
        return web.json_response({"status": "succeeded", "output": [2 * number for number in numbers]})

    async with served(handle) as url:
        job = JOB.replace("{url}", url).replace("{every}", "0.01")
        job = job.replace(next(line for line in JOB.splitlines() if "request =" in line), OF_SEVERAL_ROWS)
        (tmp_path / "in.csv").write_text(table(4))
        (tmp_path / "job.toml").write_text(job)
        assert (await run_job(load_job(tmp_path / "job.toml", ["timeouts.run=0.5"]))).exit_code == 3
        assert posts == [[0, 1, 2, 3], [0, 1], [2, 3]]
        may_end = True
        assert (await run_job(load_job(tmp_path / "job.toml"))).exit_code == 0
    assert lines(tmp_path) == {f"r{i}": 2.0 * i for i in range(4)}
    assert len(posts) == 3


@pytest.mark.parametrize("dedupe", [False, True])
async def test_a_resumed_run_cuts_the_rows_of_its_jobs_as_before(tmp_path, dedupe):
    predictions = Predictions(polls=10**6)
    async with served(predictions.handle) as url:
        job = JOB.replace("{url}", url).replace("{every}", "0.01")
        job = job.replace(next(line for line in JOB.splitlines() if "request =" in line), OF_SEVERAL_ROWS)
        (tmp_path / "in.csv").write_text(table(11) + "r11,3\n")
        (tmp_path / "job.toml").write_text(job)
        settings = ["timeouts.run=0.3", "chunks.rows=3"] + ["dedupe.enabled=true"] * dedupe
        assert (await run_job(load_job(tmp_path / "job.toml", settings))).exit_code == 3
        before = sorted(predictions.created)
        assert before == sorted([*range(11), *[3] * (not dedupe)])
        predictions.polls = 0
        settings = ["chunks.rows=2"] + ["dedupe.enabled=true"] * dedupe
        assert (await run_job(load_job(tmp_path / "job.toml", settings))).exit_code == 0
    assert sorted(predictions.created) == before
    assert lines(tmp_path) == {f"r{i}": 2.0 * i for i in range(11)} | {"r11": 6.0}


async def test_an_answer_that_is_there_at_once_needs_no_get(tmp_path):
    async def handle(request):
        assert request.method == "POST"
        number = (await request.json())["input"]["n"]
        return web.json_response({"status": "succeeded", "output": 2 * number, "urls": {"get": "/x"}}, status=201)

    async with served(handle) as url:
        summary = await run_job(write(tmp_path, url, 3))
    assert lines(tmp_path) == {"r0": 0.0, "r1": 2.0, "r2": 4.0}
    assert summary.stats.requests == 3


async def test_a_stopped_run_goes_on_waiting_for_its_jobs(tmp_path):
    async with predicting(tmp_path, 6, polls=10**6, settings=["timeouts.run=0.3"]) as (predictions, job):
        assert (await run_job(job)).exit_code == 3
        assert sorted(predictions.created) == [0, 1, 2, 3, 4, 5]
        predictions.polls = 0
        summary = await run_job(load_job(job.file, ["codec.poll.every=0.02"]))
    assert (summary.exit_code, len(predictions.created)) == (0, 6)
    assert lines(tmp_path) == {f"r{i}": 2.0 * i for i in range(6)}
    assert b"secret-token" not in (tmp_path / "out.jsonl.journal").read_bytes()


@pytest.mark.parametrize("answered", [0, 1])
async def test_an_edited_input_carries_what_a_stopped_retry_of_failed_rows_has_paid_for(tmp_path, answered):
    async with predicting(tmp_path, 6, polls=0) as (predictions, job):
        predictions.fails = lambda number: number >= 3
        assert (await run_job(job)).failed == 3
        predictions.fails = lambda _: False
        ends = [True] * answered
        predictions.trouble = lambda _: None if ends and ends.pop() else web.json_response({"status": "processing"})
        assert (await run_job(load_job(job.file, ["timeouts.run=0.3"]), only_failed=True)).exit_code == 3
        assert len(predictions.created) == 9
        with (tmp_path / "in.csv").open("a") as file:
            file.write("r6,6\n")
        predictions.trouble = lambda _: None
        summary = await run_job(load_job(job.file), carry=True)
    assert (summary.exit_code, sorted(predictions.created)) == (0, sorted([*range(7), 3, 4, 5]))
    assert lines(tmp_path) == {f"r{i}": 2.0 * i for i in range(7)}


@pytest.mark.parametrize("corrected", [False, True])
async def test_an_input_that_is_touched_during_a_retry_of_failed_rows_is_paid_for_once(tmp_path, corrected):
    async with predicting(tmp_path, 6, polls=0) as (predictions, job):
        predictions.fails = lambda number: number >= 3
        await run_job(job)
        if corrected:
            (tmp_path / "in.csv").write_text(table(6).replace("r4,4", "r4,1"))
        predictions.polls = 10**6
        assert (await run_job(load_job(job.file, ["timeouts.run=0.3"]), only_failed=True)).exit_code == 3
        os.utime(tmp_path / "in.csv", ns=(1, 1))
        assert (await run_job(load_job(job.file))).failed == 3
        assert sorted(predictions.created) == sorted([*range(6), 3, 1 if corrected else 4, 5])


async def test_the_job_of_a_control_request_is_recorded_for_no_row(tmp_path):
    predictions = Predictions(0)
    n_results, all_answered = 0, asyncio.Event()

    async def handle(request):
        nonlocal n_results
        if request.method == "POST" and (await request.json())["input"]["n"] == 4:
            # The other rows are done by then, so that none of them shows that the endpoint works.
            await all_answered.wait()
            return web.Response(status=500)
        response = await predictions.handle(request)
        n_results += request.method == "GET"
        if n_results >= 4:
            asyncio.get_running_loop().call_later(0.1, all_answered.set)
        return response

    async with served(handle) as url:
        summary = await run_job(write(tmp_path, url, 5, ["limits.concurrency=2"]))
    assert (summary.ok, summary.failed) == (4, 1)
    assert Counter(predictions.created[:4]) == Counter(range(4))
    assert len(predictions.created) == 5, "one of the rows was sent again as a control request"
    assert b"/p3" in (journal := (tmp_path / "out.jsonl.journal").read_bytes())
    assert b"/p4" not in journal


async def test_a_url_with_a_credential_is_not_kept_in_the_journal(tmp_path):
    async with predicting(tmp_path, 2, polls=10**6, settings=["timeouts.run=0.2"]) as (predictions, job):
        predictions.get_url = lambda origin, name: (
            f"{origin}/{name}{'?sig=hidden' if name == 'p1' else '?api-version=2'}"
        )
        await run_job(job)
    journal = (tmp_path / "out.jsonl.journal").read_bytes()
    assert b"/p0?api-version=2" in journal
    assert b"hidden" not in journal


SIGNATURE = "Sig/Canary+81=="
REPEATING = {
    "refused": lambda words: web.Response(status=403, text=words),
    "gone": lambda words: web.Response(status=404, text=words),
    "no JSON": lambda words: web.Response(text=words),
    "failed": lambda words: web.json_response({"status": "failed", "error": words}),
}


@pytest.mark.parametrize("trouble", REPEATING.values(), ids=REPEATING)
@pytest.mark.parametrize("is_elsewhere", [False, True])
async def test_the_signature_of_a_url_and_the_token_of_a_command_appear_nowhere(
    tmp_path, caplog, trouble, is_elsewhere
):
    caplog.set_level("DEBUG")
    predictions = Predictions()
    tokens: list[str] = []
    predictions.trouble = lambda _: trouble(f"\x1b[2J {SIGNATURE} {quote(SIGNATURE, safe='')} {tokens}")

    async def handle(request):
        if request.method == "POST" and len(tokens) < 2:
            tokens.append(request.headers["Authorization"])
            if len(tokens) == 1:  # the second token is another one
                return web.json_response({"error": f"{tokens[0]} has expired"}, status=401)
        return await predictions.handle(request)

    auth = """type = "command"\ncommand = ["sh", "-c", "echo >> n; printf 'Token-Canary-%s' $(wc -l < n)"]"""
    async with served(predictions.handle) as there, served(handle) as url:
        base = there if is_elsewhere else url
        predictions.get_url = lambda _, name: f"{base}/files/{name}?x-sig={quote(SIGNATURE, safe='')}&v=2"
        (tmp_path / "in.csv").write_text(table(3))
        text = JOB.replace("{url}", url).replace("{every}", "0.01").replace('token = "secret-token"', auth)
        (tmp_path / "job.toml").write_text(f"{text}[report]\nwrite = true\n")
        settings = [f'codec.poll.origins=["{there}"]', "limits.concurrency=1"]
        summary = await run_job(load_job(tmp_path / "job.toml", settings), record=tmp_path / "recording")
    assert tokens == ["Bearer Token-Canary-1", "Bearer Token-Canary-2"]
    assert summary.ok == 0
    files = [path for path in tmp_path.iterdir() if path.name not in ("in.csv", "job.toml", "n")]
    assert {path.suffix for path in files} >= {".html", ".jsonl", ""}
    for text in [caplog.text, repr(summary), *(path.read_bytes().decode("utf-8", "replace") for path in files)]:
        assert "canary" not in text.lower(), text
        assert "\x1b[2J" not in text


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("codec.poll.evry=1", "has no key 'evry'"),
        ("codec.poll.every=0", "must be a number above 0"),
        ('codec.poll.until="a["', "codec.poll.until"),
        ('codec.poll={ url = "a" }', "needs the key 'until'"),
        ('codec.poll.origins=["https://h/path"]', "not an origin"),
        ('codec.poll.origins="https://h"', "must be a list"),
    ],
)
def test_a_mistake_names_its_key(tmp_path, setting, words):
    with pytest.raises(ConfigError, match=words.replace("[", r"\[")):
        write(tmp_path, "http://127.0.0.1:9", 1, [setting])
