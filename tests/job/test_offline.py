"""A job without a network: recorded and replayed, rehearsed with made-up answers, and counted in a dry run."""

from __future__ import annotations

import asyncio
import json
import random
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import pytest
from aiohttp import web
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fanout
from fanout import ConfigError
from fanout.errors import ReplayError
from fanout.job import dry_run, load_job, run_job
from fanout.testing import NoNetwork, VirtualClock
from tests.jobs import JOB, served

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from pathlib import Path

MOCK = f"{JOB}\n[mock]\nshape = [3]\n"
NOBODY = "http://nobody.test/predict"


def in_virtual_time(scenario: Coroutine[Any, Any, Any]) -> tuple[Any, float]:
    """Run ``scenario`` without a connection; return its result and the virtual time of its end."""
    with NoNetwork(), asyncio.Runner(loop_factory=VirtualClock) as runner:
        return runner.run(scenario), runner.get_loop().time()


async def test_a_recorded_job_replays_to_the_same_bytes_with_the_server_gone(write_job, doubler, tmp_path):
    job = load_job(write_job(url=f"{doubler.url}?key=s3cret-value"))
    recording = tmp_path / "job.recording"
    first = await run_job(job, record=recording)
    assert first.ok == 10, first.first_failures
    assert b"s3cret-value" not in recording.read_bytes()
    job = load_job(write_job(url=NOBODY + "?key=another"))
    summary = (await asyncio.to_thread(in_virtual_time, run_job(job, replay=recording)))[0]
    assert (summary.answers, summary.ok) == ("replay", 10)
    assert summary.files.outputs == (str(tmp_path / "out" / "y.replay.npy"),)
    assert (tmp_path / "out" / "y.replay.npy").read_bytes() == (tmp_path / "out" / "y.npy").read_bytes()


async def test_a_local_server_that_is_gone_is_replayed_to_the_same_bytes(write_job, tmp_path):
    images = np.random.default_rng(0).random((50, 64))
    job = load_job(write_job(JOB.replace("json", "oip"), images, "local://digits"))
    await run_job(job, record=tmp_path / "r")
    summary = (await asyncio.to_thread(in_virtual_time, run_job(job, replay=tmp_path / "r")))[0]
    assert (tmp_path / "out" / "y.replay.npy").read_bytes() == (tmp_path / "out" / "y.npy").read_bytes()
    assert summary.stats.requests == len(job.codec.metadata_requests("http://h/v2/models/digits/infer")) + 13


async def test_a_rehearsal_does_not_replace_the_output_of_a_job_of_that_name(write_job, doubler, tmp_path):
    await run_job(load_job(write_job(url=doubler.url), ["output.path=y.mock.npy"]))
    before = (tmp_path / "y.mock.npy").read_bytes()
    with pytest.raises(ConfigError, match=r"output\.path: .*y\.mock\.npy is the output of another job"):
        await run_job(load_job(write_job(url=doubler.url), ["output.path=y.npy", "mock.shape=[]"]), mock=True)
    assert (tmp_path / "y.mock.npy").read_bytes() == before


@pytest.mark.parametrize("name", ["y.npy", "y.npy.partial", "y.npy.journal", "y.npy.scores.npy"])
async def test_a_recording_is_never_where_the_run_writes(write_job, doubler, tmp_path, name):
    job = load_job(write_job(url=doubler.url))
    with pytest.raises(ConfigError, match=r"output\.path: .* would overwrite the recording"):
        await run_job(job, record=tmp_path / "out" / name)
    assert doubler.requests == 0
    assert not (tmp_path / "out").exists()


def test_a_missing_recording_is_reported_with_the_job(write_job, tmp_path):
    write_job(MOCK, url=NOBODY)
    with pytest.raises(ConfigError, match=r"job\.toml: the cassette .* cannot be read"):
        in_virtual_time(run_job(load_job(tmp_path / "job.toml"), replay=tmp_path / "absent"))


async def test_a_request_that_was_not_recorded_names_the_job_and_the_difference(write_job, doubler, tmp_path):
    job = load_job(write_job(url=doubler.url))
    await run_job(job, record=tmp_path / "r")
    write_job(url=doubler.url, rows=np.where(np.arange(10.0) == 5, 7, np.arange(10.0)))
    with pytest.raises(
        ReplayError, match=r"job\.toml: POST .*; the nearest is .*body\.instances\[1\] is 7\.0 where 5\.0"
    ):
        await run_job(job, replay=tmp_path / "r")


def test_a_rehearsal_writes_beside_the_output_and_says_that_it_was_one(write_job, tmp_path):
    job = load_job(write_job(MOCK, url=NOBODY))
    summary, _ = in_virtual_time(run_job(job, mock=True))
    assert (summary.answers, summary.ok, summary.stats.requests) == ("mock", 10, 3)
    assert summary.files.outputs == (str(tmp_path / "out" / "y.mock.npy"),)
    assert not (tmp_path / "out" / "y.npy").exists()
    values = np.load(tmp_path / "out" / "y.mock.npy")
    assert values.shape == (10, 3)
    assert len(np.unique(values)) == 30


def test_a_complete_rehearsal_starts_over(write_job, tmp_path):
    job = load_job(write_job(MOCK, url=NOBODY))
    for _ in range(2):
        assert in_virtual_time(run_job(job, mock=True))[0].stats.requests == 3


def test_a_stopped_rehearsal_is_resumed_unless_the_mock_has_changed(write_job, tmp_path):
    job = load_job(write_job(MOCK, url=NOBODY), ["limits.max_requests=2", "limits.concurrency=1"])
    stopped, _ = in_virtual_time(run_job(job, mock=True))
    assert (stopped.stop.kind, stopped.pending) == ("max_requests", 2)
    other = load_job(tmp_path / "job.toml", ["mock.seed=5"])
    with pytest.raises(ConfigError, match="unfinished run with another mock"):
        in_virtual_time(run_job(other, mock=True))
    gone_on, _ = in_virtual_time(run_job(load_job(tmp_path / "job.toml"), mock=True))
    assert (gone_on.ok, gone_on.earlier, gone_on.stats.requests) == (10, 8, 1)


def test_a_row_has_the_same_made_up_answer_whatever_its_chunk(write_job, tmp_path):
    arrays = []
    for rows, seed in ((4, 0), (3, 0), (4, 1)):
        job = load_job(write_job(MOCK, url=NOBODY), [f"chunks.rows={rows}", f"mock.seed={seed}"])
        in_virtual_time(run_job(job, mock=True))
        arrays.append(np.load(tmp_path / "out" / "y.mock.npy"))
    assert np.array_equal(arrays[0], arrays[1])
    assert not np.array_equal(arrays[0], arrays[2])


def test_faults_and_an_hour_of_waiting_are_rehearsed_in_no_time(write_job, tmp_path):
    text = MOCK + 'latency = 300.0\nfaults = { "503" = 0.3, reset-mid-body = 0.2, nan = 0.1 }\n'
    job = load_job(
        write_job(text, np.arange(100.0), NOBODY),
        ["limits.concurrency=2", "timeouts.attempt=1000", "retry.stall=10000", "retry.max_attempts=5"],
    )
    summary, seconds = in_virtual_time(run_job(job, mock=True))
    assert summary.ok == 100
    assert summary.stats.retries > 5
    assert seconds > 3600


def test_the_same_seed_gives_the_same_events(write_job, tmp_path):
    text = MOCK + 'faults = { "503" = 0.3, reset-before-headers = 0.2 }\n'
    job = load_job(write_job(text, np.arange(200.0), NOBODY))

    async def events() -> list[Any]:
        random.seed(job.tables.mock.seed)
        received: list[Any] = []
        from fanout.job.opening import mock_transport

        transport = mock_transport(job, answering=True)
        async with fanout.Client(
            job.endpoint, codec=job.codec, chunk_rows=4, transport=transport, on_event=received.append
        ) as client:
            await client.map(np.arange(200.0))
        return received

    first, second = in_virtual_time(events()), in_virtual_time(events())
    assert first == second
    assert {event.kind for event in first[0]} >= {"done", "retry"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ([], "mock.shape: is missing: neither the codec nor the job has the shape of one row's answer"),
        (["mock.shape=[-1, 3]"], "mock.shape: is missing"),
        (["mock.shape=[3]", "mock.dtype=flot32"], "mock.dtype: dtype 'flot32' is no numpy dtype"),
        (["mock.shape=[3]", 'mock.faults={"drop"=0.1}'], "mock.faults: there is no fault 'drop'"),
        (["mock.shape=[3]", 'mock.faults={"503"=2}'], "mock.faults: fault '503': a probability is 0 to 1"),
        (["mock.shape=[3]", "codec.answers=max(x)"], "codec.answers: 'max(x)' does not show"),
    ],
)
def test_options_that_cannot_be_rehearsed_are_refused_with_their_key(write_job, settings, message):
    job = load_job(write_job(JOB, url=NOBODY), settings)
    with pytest.raises(ConfigError) as caught:
        in_virtual_time(run_job(job, mock=True))
    assert message in str(caught.value)


async def test_recording_replaying_and_rehearsing_exclude_each_other(write_job, tmp_path):
    with pytest.raises(ConfigError, match="either recorded, or replayed"):
        await run_job(load_job(write_job(url=NOBODY)), mock=True, replay=tmp_path / "r")


CODECS: dict[str, tuple[str, Any]] = {
    "json": (
        (
            'name = "json"\nrequest = { a = { rows = "{{rows}}" } }\nanswers = "b.items[].score"\n'
            'dtype = "float32"\nshape = [2]'
        ),
        1.5,
    ),
    "v1": ('name = "v1"\nshape = [2, 2]', 1.5),
    "oip": ('name = "oip"\noutputs = ["p", "q"]\nshape = [4]\ndtype = "int32"', 1.5),
    "oip-json": ('name = "oip"\nbinary = false\nshape = []', 1.5),
    "embeddings": ('name = "openai-embeddings"\nmodel = "e"\ndimensions = 8', "text"),
    "chat": ('name = "openai-chat"\nmodel = "c"', "text"),
}


@pytest.mark.slow
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    codec=st.sampled_from(sorted(CODECS)),
    rows=st.integers(0, 60),
    unsendable=st.sets(st.integers(0, 59), max_size=5),
    chunk_rows=st.integers(1, 20),
    concurrency=st.integers(1, 9),
    rates=st.dictionaries(
        st.sampled_from(["requests_per_second", "requests_per_minute", "rows_per_second", "burst"]),
        st.sampled_from([3.0, 50.0]),
    ).filter(lambda rates: rates.keys() != {"burst"}),
    latency=st.sampled_from([0.0, 0.1, 2.0]),
)
def test_a_dry_run_counts_the_requests_of_a_rehearsal_without_faults(
    codec: str, rows: int, unsendable: set[int], chunk_rows: int, concurrency: int, rates: dict[str, float],
    latency: float,
    tmp_path: Path,
) -> None:  # fmt: skip
    options, kind = CODECS[codec]
    if isinstance(kind, str):
        texts = np.array(["" if row in unsendable else f"text {row}" for row in range(rows)], dtype="U9")
        np.save(tmp_path / "x.npy", texts)
    else:
        np.save(
            tmp_path / "x.npy",
            np.array([[np.nan if row in unsendable else row, 1.5] for row in range(rows)]).reshape(rows, 2),
        )
    (tmp_path / "job.toml").write_text(
        f'[input]\npath = "x.npy"\n[endpoint]\nurl = "https://far.test/v2/models/m/infer"\n[codec]\n{options}\n'
        f"[chunks]\nrows = {chunk_rows}\n[limits]\nconcurrency = {concurrency}\n"
        + "".join(f"{name} = {rate}\n" for name, rate in rates.items())
        + f'[mock]\nlatency = {latency}\n[output]\npath = "y.jsonl"\n',
        "utf-8",
    )
    job = load_job(tmp_path / "job.toml")
    estimate, _ = in_virtual_time(dry_run(job))
    summary, _ = in_virtual_time(run_job(job, mock=True, fresh=True))
    survey = estimate.survey
    assert (survey.rows, estimate.requests, survey.unsendable) == (summary.rows, summary.stats.requests, summary.failed)
    assert summary.ok == summary.rows - summary.failed
    if rows:
        assert estimate.seconds == pytest.approx(summary.seconds, rel=0.02, abs=0.1)


def test_a_dry_run_counts_the_bytes_that_are_sent_and_sends_none(write_job, tmp_path):
    job = load_job(write_job(JOB, url=NOBODY))
    estimate, _ = in_virtual_time(dry_run(job, latency=2.0))
    bodies = [orjson.dumps({"instances": np.arange(10.0)[i : i + 4].tolist()}) for i in (0, 4, 8)]
    assert estimate.survey.body_bytes == sum(map(len, bodies))
    assert (estimate.survey.rows, estimate.survey.chunks, estimate.requests, estimate.seconds) == (10, 3, 3, 2.0)
    assert not (tmp_path / "out").exists()


SHARING = """
[input]
path = "x.jsonl"
column = "text"
[endpoint]
urls = {urls}
[codec]
name = "openai-embeddings"
[chunks]
rows = 4
[limits]
concurrency = 1
[cache]
path = "answers.sqlite"
[dedupe]
enabled = {dedupe}
[output]
path = "y.npy"
"""


@pytest.mark.parametrize("dedupe", [False, True])
@pytest.mark.parametrize("n_endpoints", [1, 2])
async def test_a_dry_run_counts_what_the_cache_knows_and_duplicates(tmp_path, dedupe, n_endpoints):
    texts = [f"text {i % 9}" for i in range(3000)] + [f"other {i}" for i in range(30)] + [""]
    rows = "".join(json.dumps({"text": text}) + "\n" for text in texts)

    async def handle(request):
        items = [{"index": i, "embedding": [1.0]} for i in range(len((await request.json())["input"]))]
        return web.json_response({"data": items})

    async with served(handle) as url:
        urls = [f"{url}/{i}/v1/embeddings" for i in range(n_endpoints)]
        job_text = SHARING.replace("{urls}", json.dumps(urls)).replace("{dedupe}", str(dedupe).lower())
        (tmp_path / "job.toml").write_text(job_text)
        job = load_job(tmp_path / "job.toml")
        (tmp_path / "x.jsonl").write_text("".join(json.dumps({"text": f"text {i}"}) + "\n" for i in range(5)))
        estimate = await dry_run(job)
        assert (estimate.survey.cached, estimate.requests) == (0, 2)
        assert not (tmp_path / "answers.sqlite").exists()
        await run_job(job)
        (tmp_path / "x.jsonl").write_text(rows)
        survey = (await dry_run(job)).survey
        summary = await run_job(job, fresh=True)
    stats = summary.stats
    assert (survey.rows, survey.cached, survey.shared) == (3031, 1668, 1328 if dedupe else 0)
    assert survey.unsendable == summary.failed == 1
    if dedupe:
        # The run finds some duplicates in the cache, as soon as it has written the answer there.
        assert survey.cached + survey.shared == stats.cached + stats.shared
        assert survey.chunks == stats.requests
    else:
        assert survey.cached <= stats.cached


def test_a_dry_run_needs_no_shape_but_a_right_input(write_job):
    with pytest.raises(ConfigError, match="embeddings are made of texts"):
        in_virtual_time(dry_run(load_job(write_job(JOB.replace("json", "openai-embeddings"), url=NOBODY))))
