"""Jobs of asynchronous APIs in the journal: a run that is resumed awaits those of rows that are still the same."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import numpy as np
import orjson
import pytest
from multidict import CIMultiDict

from fanout import Client, Journal, Response, RunControl, RunStopped
from fanout.codecs import Json

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from fanout.transport import Request

pytestmark = pytest.mark.virtual_time
POLL = {"url": "get", "until": "output", "result": "output", "timeout": 1e6}
CODEC = Json(request={"n": "{{rows}}"}, answers="@", dtype="float64", shape=[], poll=POLL)
ROWS, CHUNK = 20_000, 5_000
URLS = ("http://jobs.test/",)


class Doubling:
    """Doubles the numbers of each POST. Jobs but the first have not ended as long as ``is_busy``."""

    def __init__(self) -> None:
        self.posted: list[list[float]] = []
        self.is_busy = True
        self.first_is_busy = False

    async def send(self, request: Request) -> Response:
        await asyncio.sleep(0.01)
        document: dict[str, object] = {}
        if request.method == "POST":
            self.posted.append(orjson.loads(request.joined())["n"])
            document["get"] = f"/jobs/{len(self.posted) - 1}"
        else:
            number = int(request.url.rpartition("/")[2])
            if not (self.is_busy if number else self.first_is_busy):
                document["output"] = [2 * n for n in self.posted[number]]
        return Response(status=200, headers=CIMultiDict(), body=orjson.dumps(document), url=request.url)


async def run(
    server: Doubling,
    folder: Path,
    control: RunControl | None = None,
    *,
    codec: Json = CODEC,
    urls: Sequence[str] = URLS,
    carry: bool = False,
) -> None:
    async with Client(urls, codec=codec, transport=server, chunk_rows=CHUNK) as client:
        await client.run(
            str(folder / "x.npy"),
            str(folder / "y.npy"),
            journal=folder / "y.npy.journal",
            control=control,
            carry=carry,
        )


@pytest.mark.parametrize("changed", [False, True])
async def test_a_job_counts_for_the_rows_that_it_was_given_only(tmp_path: Path, changed: bool) -> None:
    np.save(tmp_path / "x.npy", x := np.arange(float(ROWS)))
    server, control = Doubling(), RunControl()
    asyncio.get_running_loop().call_later(5, control.cut)
    with pytest.raises(RunStopped):
        await run(server, tmp_path, control)
    assert len(server.posted) == ROWS // CHUNK
    if changed:
        # Between the samples that identify a large file, a row is corrected that has no answer yet.
        x[12_345] = -1.0
        with (tmp_path / "x.npy").open("r+b") as file:
            file.seek(128 + 8 * 12_345)
            file.write(np.float64(-1.0).tobytes())
        os.utime(tmp_path / "x.npy", ns=(1, 1))
    server.is_busy = False
    await run(server, tmp_path)
    assert np.load(tmp_path / "y.npy").tolist() == (2 * x).tolist()
    assert len(server.posted) == ROWS // CHUNK + changed


async def test_a_job_recorded_without_a_digest_is_not_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As earlier versions recorded jobs: nothing shows that the rows are still the same."""
    np.save(tmp_path / "x.npy", x := np.arange(float(ROWS)))
    server, control = Doubling(), RunControl()
    asyncio.get_running_loop().call_later(5, control.cut)
    record_job = Journal.record_job
    with monkeypatch.context() as earlier:
        earlier.setattr(Journal, "record_job", lambda self, start, stop, job: record_job(self, start, stop, job[:1]))
        with pytest.raises(RunStopped):
            await run(server, tmp_path, control)
    server.is_busy = False
    await run(server, tmp_path)
    assert np.load(tmp_path / "y.npy").tolist() == (2 * x).tolist()
    assert len(server.posted) == 2 * (ROWS // CHUNK) - 1, "all but the job that had ended"


class Described(Json):
    """A codec that asks each endpoint for the model's metadata before it gets rows."""

    def metadata_requests(self, url: str, responses: Sequence[Response] = ()) -> Sequence[str]:
        return [f"{url}meta"]


class Slow(Doubling):
    """Answers a request for metadata a minute later at the endpoint ``slow``."""

    slow = "http://second.test/"

    async def send(self, request: Request) -> Response:
        if not request.url.endswith("meta"):
            return await super().send(request)
        await asyncio.sleep(60 if request.url.startswith(self.slow) else 0)
        return Response(status=200, headers=CIMultiDict(), body=b"{}", url=request.url)


async def test_a_job_of_an_endpoint_that_is_not_ready_yet_is_awaited(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", x := np.arange(float(ROWS)))
    codec = Described(request={"n": "{{rows}}"}, answers="@", dtype="float64", shape=[], poll=POLL)
    urls, server, control = ("http://first.test/", "http://second.test/"), Slow(), RunControl()
    asyncio.get_running_loop().call_later(5, control.cut)
    with pytest.raises(RunStopped):
        await run(server, tmp_path, control, codec=codec, urls=urls)
    server.is_busy, server.slow = False, urls[0]
    await run(server, tmp_path, codec=codec, urls=urls)
    assert np.load(tmp_path / "y.npy").tolist() == (2 * x).tolist()
    assert len(server.posted) == ROWS // CHUNK, "no job is started, and paid, twice"


@pytest.mark.parametrize("answered", [0, 1])
@pytest.mark.parametrize("edit", ["grown", "moved", "corrected"])
async def test_an_edited_input_goes_on_waiting_for_the_jobs_of_rows_that_it_still_has(
    tmp_path: Path, edit: str, answered: int
) -> None:
    np.save(tmp_path / "x.npy", x := np.arange(float(ROWS)))
    server, control = Doubling(), RunControl()
    server.first_is_busy = not answered
    asyncio.get_running_loop().call_later(5, control.cut)
    with pytest.raises(RunStopped):
        await run(server, tmp_path, control)
    assert len(server.posted) == ROWS // CHUNK
    if edit == "corrected":
        x[-1] = -1.0
    else:
        more = np.full(CHUNK, 0.5)
        x = np.concatenate([x, more] if edit == "grown" else [more, x])
    np.save(tmp_path / "x.npy", x)
    server.is_busy = server.first_is_busy = False
    await run(server, tmp_path, carry=True)
    assert np.load(tmp_path / "y.npy").tolist() == (2 * x).tolist()
    assert len(server.posted) == ROWS // CHUNK + 1, "no job is started, and paid, twice"


async def test_an_input_that_was_only_touched_before_the_first_answer_goes_on_waiting(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", x := np.arange(float(ROWS)))
    server, control = Doubling(), RunControl()
    server.first_is_busy = True
    asyncio.get_running_loop().call_later(5, control.cut)
    with pytest.raises(RunStopped):
        await run(server, tmp_path, control)
    os.utime(tmp_path / "x.npy", ns=(1, 1))
    server.is_busy = server.first_is_busy = False
    await run(server, tmp_path)
    assert np.load(tmp_path / "y.npy").tolist() == (2 * x).tolist()
    assert len(server.posted) == ROWS // CHUNK
