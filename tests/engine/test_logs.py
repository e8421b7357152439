"""The log has attempts, phases and what needs a person, each with its values, and never a secret."""

from __future__ import annotations

import asyncio
import logging

import numpy as np
import pytest

from fanout import Client, Limits, RetryPolicy, RunStopped
from fanout.testing import MockEndpoint, Scripted
from fanout.types import Response
from tests.support import Plain

pytestmark = pytest.mark.virtual_time
X = np.arange(12.0).reshape(4, 3)
QUICK = RetryPolicy(initial_backoff=0.01, max_backoff=0.02)


def logged(caplog):
    """Level, event and values of each record of fanout."""
    records = []
    for record in caplog.records:
        values = {name[7:]: value for name, value in vars(record).items() if name.startswith("fanout.")}
        records.append((record.levelname, values.pop("event"), values))
    return records


async def run(mock, **options):
    options = {"chunk_rows": 2, "limits": Limits(concurrency=1), "retry": QUICK} | options
    async with Client(mock.url(Plain), codec=Plain, **options) as client:
        return await client.map(X)


async def test_info_has_the_phases_of_a_run_and_no_attempt(caplog):
    with caplog.at_level(logging.INFO, "fanout"), MockEndpoint(lambda x: x) as mock:
        mock.script(503)
        await run(mock)
    begin, end = logged(caplog)
    assert begin == ("INFO", "begin", {"rows": 4})
    assert end[:2] == ("INFO", "end")
    assert {name: end[2][name] for name in ("ok", "failed", "requests", "retries")} == {
        "ok": 4, "failed": 0, "requests": 3, "retries": 1,
    }  # fmt: skip
    assert caplog.messages[0] == "a run of 4 rows begins"


async def test_debug_has_each_attempt_with_its_outcome(caplog):
    with caplog.at_level(logging.DEBUG, "fanout"), MockEndpoint(lambda x: x, latency=0.25) as mock:
        mock.script(503)
        await run(mock)
    attempts = [values for _, event, values in logged(caplog) if event == "attempt"]
    assert [(one["start"], one["stop"], one["attempt"], one.get("status"), one.get("action")) for one in attempts] == [
        (0, 2, 1, 503, "retry"), (2, 4, 1, None, None), (0, 2, 2, None, None),
    ]  # fmt: skip
    assert [one["seconds"] for one in attempts] == pytest.approx([0.25] * 3)
    assert all(one["endpoint"] == mock.url(Plain) for one in attempts)
    assert any(message.endswith("succeeded") for message in caplog.messages)


async def test_a_stop_is_information_with_its_kind(caplog):
    with caplog.at_level(logging.INFO, "fanout"), MockEndpoint(lambda x: x) as mock:
        mock.script(401)
        with pytest.raises(RunStopped):
            await run(mock)
    (stop,) = [values for _, event, values in logged(caplog) if event == "stop"]
    assert stop["kind"] == "refused"
    assert "401" in stop["reason"]


class OneRefuses:
    """A transport to two endpoints, one of which refuses the credentials."""

    async def send(self, request):
        await asyncio.sleep(0.01)
        if "bad" in str(request.url):
            return Response(status=401, headers={}, body=b"no")
        return Response(status=200, headers={"Content-Type": "application/json"}, body=b'{"predictions": [1]}')


async def test_an_endpoint_that_is_excluded_is_a_warning(caplog):
    urls = [f"http://{name}/v1/models/m:predict" for name in ("good", "bad")]
    with caplog.at_level(logging.WARNING, "fanout"):
        async with Client(urls, codec="v1", chunk_rows=1, transport=OneRefuses()) as client:
            await client.map(X)
    ((level, event, values),) = logged(caplog)
    assert (level, event, values["status"]) == ("WARNING", "excluded", 401)
    assert "http://bad/v1/models/m:predict" in values["reason"]


@pytest.mark.parametrize(("seconds", "level"), [(1, "DEBUG"), (30, "INFO")])
async def test_a_pause_is_information_if_it_is_long(caplog, seconds, level):
    with caplog.at_level(logging.DEBUG, "fanout"), MockEndpoint(lambda x: x) as mock:
        mock.script(Scripted(status=429, headers={"Retry-After": str(seconds)}))
        await run(mock)
    (pause,) = [one for one in logged(caplog) if one[1] == "pause"]
    assert (pause[0], pause[2]["seconds"], pause[2]["status"]) == (level, seconds, 429)


async def test_no_secret_is_logged(caplog):
    secret = "s3cret-t0ken"
    with caplog.at_level(logging.DEBUG, "fanout"), MockEndpoint(lambda x: x) as mock:
        mock.script(
            Scripted(status=503, body=f"{secret} is over its limit".encode()),
            Scripted(status=401, body=f"{secret} is unknown".encode()),
        )
        with pytest.raises(RunStopped):
            await run(mock, headers={"Authorization": f"Bearer {secret}"})
    assert len(caplog.records) >= 4
    assert secret not in str([vars(record) for record in caplog.records])


async def test_nothing_is_formatted_while_the_level_is_off(monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("a record was made")

    logger = logging.getLogger("fanout")
    monkeypatch.setattr(logger, "makeRecord", fail)
    monkeypatch.setattr("fanout.engine.logs._log", fail)
    logger.setLevel(logging.ERROR)
    try:
        with MockEndpoint(lambda x: x) as mock:
            mock.script(503)
            await run(mock)
    finally:
        logger.setLevel(logging.NOTSET)


async def test_calls_of_predict_are_no_phases(caplog):
    with caplog.at_level(logging.INFO, "fanout"), MockEndpoint(lambda x: x) as mock:
        async with Client(mock.url(Plain), codec=Plain) as client:
            await client.predict(X[0])
    assert logged(caplog) == []
